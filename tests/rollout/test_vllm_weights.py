"""Where the trainer's tensors lie in vLLM's, on a stand-in with vLLM's names and fused rows."""

import os
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.policies import tiny_policy
from vibelite.errors import EngineError, RecipeError
from vibelite.models.adapter import merged_weights
from vibelite.models.policy import Policy
from vibelite.rollout.vllm_start import VLLMSettings, resolved_sync
from vibelite.rollout.vllm_weights import Location, Slice, WeightSync, locate

FUSED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}


class Fused:
    """A model with the trainer's tensors, q, k, v and gate, up in one each, as vLLM keeps them."""

    packed_modules_mapping = FUSED

    def __init__(self, policy, *, reverse=False):
        self.tensors = {}
        for name, tensor in policy.model.named_parameters():
            words = name.split(".")
            part = next((word for word in words if word in sum(FUSED.values(), [])), None)
            if part is None:
                self.tensors[name] = torch.zeros_like(tensor)
                continue
            whole = next(key for key, parts in FUSED.items() if part in parts)
            parts = [name.replace(part, other) for other in FUSED[whole]]
            rows = [dict(policy.model.named_parameters())[other].shape for other in parts]
            shape = (sum(row[0] for row in rows), *rows[0][1:])
            self.tensors[name.replace(part, whole)] = torch.zeros(shape)
        self.tensors = {n: torch.nn.Parameter(t, False) for n, t in self.tensors.items()}
        self.reverse = reverse

    def named_parameters(self):
        return self.tensors.items()

    def load_weights(self, weights):
        """As vLLM's loader; with `reverse`, up before gate."""
        shapes = {name: tensor.shape for name, tensor in self.policy_weights}
        fused = FUSED | ({"gate_up_proj": ["up_proj", "gate_proj"]} if self.reverse else {})
        places = locate(shapes, fused, {name: t.shape for name, t in self.tensors.items()})
        for name, tensor in weights:
            place = places[name]
            view = self.tensors[place.parameter].data.narrow(0, place.start, place.rows)
            view.copy_(tensor)

    @property
    def policy_weights(self):
        return self._weights

    @policy_weights.setter
    def policy_weights(self, weights):
        self._weights = list(weights)


def sync(**options) -> tuple[WeightSync, Fused, Policy]:
    policy = tiny_policy()
    model = Fused(policy, **options)
    model.policy_weights = merged_weights(policy)
    return WeightSync(model, lambda: merged_weights(policy)), model, policy


def test_parts_follow_each_other_in_the_fused_tensor():
    shapes = {
        "layers.0.q_proj.weight": torch.Size([8, 4]),
        "layers.0.k_proj.weight": torch.Size([2, 4]),
        "layers.0.v_proj.weight": torch.Size([2, 4]),
        "norm.weight": torch.Size([4]),
    }
    held = {"layers.0.qkv_proj.weight": torch.Size([12, 4]), "norm.weight": torch.Size([4])}
    places = locate(shapes, FUSED, held)
    assert places["layers.0.v_proj.weight"] == Location("layers.0.qkv_proj.weight", 10, 2)
    assert places["norm.weight"] == Location("norm.weight", 0, 4)


def test_a_tensor_that_vllm_does_not_have_is_named():
    with pytest.raises(EngineError, match=r"no tensor for the trainer's lm_head\.weight"):
        locate({"lm_head.weight": torch.Size([2])}, FUSED, {"norm.weight": torch.Size([2])})


def test_ranks_of_one_engine_hold_heads_rows_and_columns_in_their_order():
    """8 heads of 2 numbers on 2 heads of keys, on 4 ranks: each of these is held by two of them."""
    shapes = {
        "layers.0.q_proj.weight": torch.Size([16, 8]),
        "layers.0.k_proj.weight": torch.Size([4, 8]),
        "layers.0.v_proj.weight": torch.Size([4, 8]),
        "layers.0.o_proj.weight": torch.Size([8, 16]),
        "layers.0.up_proj.weight": torch.Size([12, 8]),
        "layers.0.gate_proj.weight": torch.Size([12, 8]),
        "embed_tokens.weight": torch.Size([30, 8]),
        "norm.weight": torch.Size([8]),
    }
    held = {
        "layers.0.qkv_proj.weight": torch.Size([4 + 2 + 2, 8]),
        "layers.0.o_proj.weight": torch.Size([8, 4]),
        "layers.0.gate_up_proj.weight": torch.Size([3 + 3, 8]),
        "embed_tokens.weight": torch.Size([8, 8]),  # 32 rows, of which 2 are padding
        "norm.weight": torch.Size([8]),
    }
    third, last = (locate(shapes, FUSED, held, Slice(rank, 4)) for rank in (2, 3))
    qkv = "layers.0.qkv_proj.weight"
    assert third["layers.0.q_proj.weight"] == Location(qkv, 0, 4, first_row=8)
    assert third["layers.0.k_proj.weight"] == Location(qkv, 4, 2, first_row=2)
    assert last["layers.0.v_proj.weight"] == Location(qkv, 6, 2, first_row=2)
    assert last["layers.0.o_proj.weight"] == Location("layers.0.o_proj.weight", 0, 8, 0, 12)
    assert third["layers.0.up_proj.weight"] == Location("layers.0.gate_up_proj.weight", 3, 3, 6)
    assert third["embed_tokens.weight"] == Location("embed_tokens.weight", 0, 8, 16)
    assert last["embed_tokens.weight"] == Location("embed_tokens.weight", 0, 6, 24)
    assert last["norm.weight"] == Location("norm.weight", 0, 8)


def test_another_order_of_the_parts_is_noticed():
    weights, _, _ = sync(reverse=True)
    with pytest.raises(EngineError, match=r"gate_proj\.weight in another layout"):
        weights.load_first()


def test_a_copy_and_shared_memory_follow_the_trainer():
    for way in ("copy", "alias"):
        weights, model, policy = sync()
        weights.load_first()
        if way == "alias":
            weights.alias(dict(policy.model.named_parameters()))
        with torch.no_grad():
            for parameter in policy.model.parameters():
                parameter.add_(1.0)
        assert (weights.engine_fingerprint() == weights.trainer_fingerprint()) == (way == "alias")
        copied = weights.push()
        assert weights.engine_fingerprint() == weights.trainer_fingerprint()
        assert copied == (0 if way == "alias" else sum(p.nbytes for p in policy.model.parameters()))
        place = weights._locations["model.layers.1.self_attn.k_proj.weight"]
        fused = model.tensors["model.layers.1.self_attn.qkv_proj.weight"]
        expected = policy.model.model.layers[1].self_attn.k_proj.weight
        assert torch.equal(fused[place.start : place.start + place.rows], expected)


def test_a_parameter_that_was_replaced_is_no_longer_shared():
    weights, _, policy = sync()
    weights.load_first()
    weights.alias(dict(policy.model.named_parameters()))
    norm = policy.model.model.norm.weight
    norm.data = norm.data.clone()
    with pytest.raises(EngineError, match=r"model\.norm\.weight no longer shares memory"):
        weights.push()


def test_other_types_cannot_be_shared():
    weights, _, policy = sync()
    torch.nn.Module.to(policy.model, torch.bfloat16)
    with pytest.raises(RecipeError, match="bfloat16, the engine's torch.float32; use auto"):
        weights.alias(dict(policy.model.named_parameters()))


def settings(**changes: Any) -> VLLMSettings:
    return replace(VLLMSettings((0,), 1, 8, 1, "float32"), **changes)


def test_auto_shares_where_the_types_are_equal_and_copies_elsewhere():
    policy = tiny_policy()
    assert resolved_sync("auto", policy, "float32") == "alias"
    assert resolved_sync("auto", policy, "bfloat16") == "copy"
    assert resolved_sync("auto", policy, "float32", num_slices=2) == "copy"
    assert resolved_sync("copy", policy, "float32") == "copy"


def test_the_names_of_the_allocators_settings_reach_vllm(monkeypatch):
    from vibelite.rollout import vllm_start

    # What a user has set stays; a plain dict, for nothing of it may outlive the test.
    found = {"PYTORCH_ALLOC_CONF": "expandable_segments:True", "VLLM_NO_USAGE_STATS": "0"}
    monkeypatch.setattr(os, "environ", found)
    vllm_start._prepare_environment(True)
    assert os.environ["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    assert os.environ["VLLM_NO_USAGE_STATS"] == "0"


def test_a_gpu_gets_sleep_graphs_and_resident_weights_as_the_settings_say():
    from vibelite.rollout.vllm_start import _arguments

    shared = _arguments(settings(sync="alias", dtype="bfloat16"), True)
    assert shared["enable_sleep_mode"] and "ResidentWeightsWorker" in shared["worker_cls"]
    assert shared["compilation_config"]["cudagraph_mode"] == "FULL_DECODE_ONLY"
    own = _arguments(settings(sync="copy", dtype="bfloat16", cuda_graphs="off"), True)
    assert own["enable_sleep_mode"] and "worker_cls" not in own and own["enforce_eager"]
    awake = _arguments(settings(sync="copy", sleeps=False), True)
    assert "enable_sleep_mode" not in awake
    assert "enable_sleep_mode" not in _arguments(settings(sync="copy"), False)
