"""Adapters: what is trained and saved, and what merging changes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file

from tests.policies import random_sequences, tiny_policy
from tests.saving import save_training_state
from vibelite.data.batching import pack
from vibelite.errors import CheckpointError, RecipeError
from vibelite.kernels import chunked
from vibelite.models.activations import apply_activations
from vibelite.models.adapter import (
    FACTORS,
    TRAINED,
    WEIGHTS_NAME,
    is_adapter,
    lora_layers,
    mean_adapter,
    merged_weights,
    read_adapter,
    save_adapter,
    starting_weights,
    write_adapter,
)
from vibelite.models.load import attach, load_policy, quantise
from vibelite.models.policy import Policy
from vibelite.ranks.states import load_whole
from vibelite.recipe.model_section import Adapter, Training
from vibelite.recipe.stage_section import Optimizer
from vibelite.stages.sft import weighted_nll
from vibelite.training.checkpoint import load_training_state
from vibelite.training.optim import PolicyOptimizer

CPU = torch.device("cpu")
LORA = Adapter(kind="lora", rank=3, alpha=5.0)
QLORA = Adapter(kind="qlora", rank=3, alpha=5.0)
NUM_MAPS = 7 * 2  # of two layers
KINDS = ["lora", "qlora"]


def plain_policy(settings: Adapter, dtype: torch.dtype = torch.float32) -> Policy:
    """What an adapter of these settings is attached to."""
    policy = tiny_policy()
    torch.nn.Module.to(policy.model, dtype)
    if settings.kind == "qlora":
        pytest.importorskip("bitsandbytes")
        quantise(policy.model, CPU)
    return policy


def adapted(
    settings: Adapter = LORA,
    *,
    start: Path = Path("base"),
    dtype: torch.dtype = torch.float32,
    seed: int = 1,
) -> Policy:
    """A tiny policy whose adapter is as if it had been trained: its factors are random."""
    policy = attach(plain_policy(settings, dtype), settings, start=start, seed=seed)
    randomise(policy, seed)
    return policy


def randomise(policy: Policy, seed: int, scale: float = 0.05) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, layer in lora_layers(policy):
            for factor in FACTORS:
                weight = getattr(layer, factor)[TRAINED].weight
                weight.copy_(scale * torch.randn(weight.shape, generator=generator))


def batch() -> Any:
    return pack(random_sequences(5), CPU)


def logprobs(policy: Policy) -> torch.Tensor:
    with torch.no_grad():
        return policy.logprobs(batch())[0]


def backward(policy: Policy) -> dict[str, torch.Tensor]:
    packed = batch()
    weights = packed.token_weights[packed.completion_mask]
    policy.token_loss(packed, partial(weighted_nll, weights)).loss.backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in policy.model.named_parameters()
        if parameter.grad is not None
    }


def plain(policy: Policy, weights: dict[str, torch.Tensor]) -> Policy:
    """An ordinary model with these weights."""
    other = tiny_policy(seed=7)
    torch.nn.Module.to(other.model, policy.head.weight.dtype)
    other.model.load_state_dict({**weights, "lm_head.weight": weights["model.embed_tokens.weight"]})
    return other


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_adapter_changes_nothing_and_trains_two_factors_per_linear_map(kind):
    settings = Adapter(kind=kind, rank=3, alpha=5.0)
    policy = plain_policy(settings)
    before = logprobs(policy)
    policy = attach(policy, settings, start=Path("base"), seed=1)
    assert torch.equal(logprobs(policy), before)
    trained = list(policy.trainable_parameters())
    assert len(trained) == 2 * NUM_MAPS
    assert {min(parameter.shape) for parameter in trained} == {3}
    gradients = backward(policy)
    assert all(".lora_A." in name or ".lora_B." in name for name in gradients)


@pytest.mark.parametrize(
    ("kind", "dtype", "tolerance"),
    [
        # A few units in the last place of log-probs near 6.
        ("lora", torch.float64, 1e-13),
        ("lora", torch.float32, 1e-5),
        ("qlora", torch.float32, 1e-5),
        # The merged weights are rounded to 8 bits once more than the policy's were.
        ("lora", torch.bfloat16, 0.15),
        ("qlora", torch.bfloat16, 0.15),
    ],
)
def test_the_merged_model_computes_what_the_policy_does(kind, dtype, tolerance):
    policy = adapted(Adapter(kind=kind, rank=3, alpha=5.0), dtype=dtype)
    merged = dict(merged_weights(policy))
    difference = (logprobs(plain(policy, merged)) - logprobs(policy)).abs().max()
    assert difference <= tolerance
    with starting_weights(policy):
        assert (logprobs(policy) - logprobs(plain(policy, merged))).abs().max() > 2 * tolerance


def test_merged_weights_have_the_names_of_the_checkpoint_and_share_what_no_adapter_changes():
    policy = adapted(Adapter(kind="lora", targets=["q_proj", "down_proj"]))
    expected = [name for name, _ in tiny_policy().model.named_parameters()]
    merged = dict(merged_weights(policy))
    assert list(merged) == expected
    own = dict(policy.model.named_parameters())
    for name, tensor in merged.items():
        is_changed = name.endswith(("q_proj.weight", "down_proj.weight"))
        assert is_changed != any(tensor.data_ptr() == p.data_ptr() for p in own.values()), name
    assert dict(merged_weights(tiny_policy())).keys() == merged.keys()


def test_the_starting_weights_are_those_before_training_and_come_back():
    policy = adapted()
    after = logprobs(policy)
    with starting_weights(policy):
        assert torch.equal(logprobs(policy), logprobs(tiny_policy()))
    assert torch.equal(logprobs(policy), after)
    assert len(list(policy.trainable_parameters())) == 2 * NUM_MAPS


@pytest.mark.parametrize("tile", [0, 7])
@pytest.mark.parametrize("activations", ["checkpoint", "checkpoint_offload"])
@pytest.mark.parametrize(
    # With down_proj alone the first layer's input and norms have no gradient of their own.
    "settings",
    [LORA, QLORA, Adapter(kind="lora", rank=3, targets=["down_proj"])],
    ids=["lora", "qlora", "down"],
)
def test_gradients_do_not_depend_on_how_activations_are_kept(settings, activations, tile):
    kept = backward(adapted(settings))
    assert len(kept) == 2 * 2 * len(settings.targets)
    assert all(gradient.abs().max() > 0 for gradient in kept.values())
    policy = adapted(settings)
    apply_activations(policy.model, Training(activations=activations, mlp_tile_tokens=tile))
    other = backward(policy)
    assert other.keys() == kept.keys()
    for name, gradient in kept.items():
        # Tiles change the order of sums; the rest is the same arithmetic.
        tolerance = 1e-5 * gradient.abs().max() if tile else 0.0
        assert (other[name] - gradient).abs().max() <= tolerance, name


@pytest.mark.parametrize("kind", KINDS)
def test_the_training_state_holds_the_adapter_alone_and_resumes_bit_for_bit(tmp_path, kind):
    settings = Adapter(kind=kind, rank=3, alpha=5.0)

    def start(seed: int) -> tuple[Policy, PolicyOptimizer]:
        policy = adapted(settings, seed=seed)
        return policy, PolicyOptimizer(policy, Optimizer(lr=1e-2), num_steps=4)

    def train(policy: Policy, optimizer: PolicyOptimizer, steps: range) -> list[torch.Tensor]:
        for step in steps:
            backward(policy)
            optimizer.step(step)
        return [parameter.clone() for parameter in policy.trainable_parameters()]

    whole = train(*start(1), range(4))
    policy, optimizer = start(1)
    numbers = sum(parameter.numel() for parameter in policy.trainable_parameters())
    train(policy, optimizer, range(2))
    save_training_state(tmp_path, 2, policy, optimizer)
    saved = load_whole(tmp_path / "step-000002")
    assert sum(tensor.nbytes for tensor in saved["weights"].values()) == 4 * numbers
    # Two moments of each, and the number of steps.
    kept = [
        value.nbytes for values in saved["optimizer"]["state"].values() for value in values.values()
    ]
    assert sum(kept) == 8 * numbers + 4 * len(saved["weights"])
    assert not saved["optimizer"].get("masters")
    other, optimizer = start(99)
    assert load_training_state(tmp_path, other, optimizer) == 2
    assert all(map(torch.equal, train(other, optimizer, range(2, 4)), whole))


def test_a_frozen_head_gets_no_gradient_and_no_room_for_one(monkeypatch):
    policy = adapted()
    wanted = []
    run = chunked.loss_and_gradients

    def note(call, per_token_loss, needed):
        loss, statistics, gradients = run(call, per_token_loss, needed)
        wanted.append((needed, gradients))
        return loss, statistics, gradients

    monkeypatch.setattr(chunked, "loss_and_gradients", note)
    backward(policy)
    backward(tiny_policy())
    (frozen, without), (trained, with_one) = wanted
    assert (frozen.hidden, frozen.weight, without.weight) == (True, False, None)
    assert trained.weight and with_one.weight.shape == policy.head.weight.shape


@pytest.mark.parametrize("name", ["lm_head", "embed_tokens", "q_prj"])
def test_a_target_that_is_no_linear_map_of_the_layers_is_named(name):
    settings = Adapter(kind="lora", targets=["q_proj", name])
    with pytest.raises(RecipeError, match=f"'{name}'.*q_proj, k_proj, v_proj, o_proj"):
        attach(tiny_policy(), settings, start=Path("base"), seed=0)


def saved_base(directory: Path) -> Path:
    tiny_policy().save(directory / "base")
    return directory / "base"


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_adapter_is_small_and_loads_as_the_merged_model(tmp_path, kind):
    base = saved_base(tmp_path)
    policy = adapted(Adapter(kind=kind, rank=3, alpha=5.0), start=base)
    target = tmp_path / "stage" / "step"
    target.mkdir(parents=True)
    save_adapter(policy, target)
    numbers = sum(parameter.numel() for parameter in policy.trainable_parameters())
    saved = load_file(target / WEIGHTS_NAME)
    assert sum(tensor.nbytes for tensor in saved.values()) == 4 * numbers
    assert is_adapter(target) and not is_adapter(base)
    loaded = load_policy(target)
    assert loaded.adapter is None
    merged = dict(merged_weights(policy))
    for name, parameter in loaded.model.named_parameters():
        assert torch.equal(parameter, merged[name]), name


def test_peft_itself_reads_the_adapter(tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    policy = adapted(start=saved_base(tmp_path))
    save_adapter(policy, tmp_path)
    ours = logprobs(policy)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    theirs = PeftModel.from_pretrained(base, tmp_path).merge_and_unload()  # pyright: ignore
    theirs.set_attn_implementation("vibelite")
    assert (logprobs(Policy(theirs, policy.tokenizer)) - ours).abs().max() < 1e-5


def test_an_adapter_of_another_origin_is_refused_with_what_to_do(tmp_path):
    policy = adapted(start=saved_base(tmp_path))
    save_adapter(policy, tmp_path)
    (tmp_path / "base.json").unlink()
    with pytest.raises(RecipeError, match="is an adapter of peft.*merge_and_unload"):
        load_policy(tmp_path)


def test_a_run_directory_may_be_moved_and_a_lost_base_is_named(tmp_path):
    policy = adapted(start=saved_base(tmp_path / "run"))
    save_adapter(policy, tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "moved")
    assert read_adapter(tmp_path / "moved").base == tmp_path / "moved" / "base"
    (tmp_path / "moved" / "base").rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="base, which is not there any more"):
        read_adapter(tmp_path / "moved")


def specialists(directory: Path, kind: str) -> list[Path]:
    base = saved_base(directory)
    paths = []
    for seed in (1, 2, 3):
        policy = adapted(Adapter(kind=cast(Any, kind), rank=3), start=base, seed=seed)
        paths.append(directory / f"step-{seed}")
        paths[-1].mkdir()
        save_adapter(policy, paths[-1])
    return paths


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_of_adapters_is_the_mean_of_the_merged_weights(tmp_path, kind):
    paths = specialists(tmp_path, kind)
    weights = [1.0, 2.0, 0.0]
    fused = mean_adapter([*paths, paths[0]], [*weights, 1.0])
    assert fused.rank == 2 * 3  # one weighs nothing, one is there twice
    (tmp_path / "fused").mkdir()
    write_adapter(fused, tmp_path / "fused")
    result = dict(load_policy(tmp_path / "fused").model.named_parameters())
    sources = [dict(load_policy(path).model.named_parameters()) for path in paths[:2]]
    for name, tensor in result.items():
        mean = sum(0.5 * source[name].double() for source in sources)
        torch.testing.assert_close(tensor.double(), mean, rtol=0, atol=2e-7)


def test_adapters_of_different_models_or_maps_are_not_averaged(tmp_path):
    first, second, third = specialists(tmp_path, "lora")
    tiny_policy(seed=3).save(tmp_path / "other")
    adapter = read_adapter(second)
    write_adapter(replace(adapter, base=tmp_path / "other"), second)
    with pytest.raises(CheckpointError, match="is an adapter of .*other"):
        mean_adapter([first, second], [1, 1])
    name = next(iter(adapter.factors))
    write_adapter(replace(adapter, factors={name: adapter.factors[name]}), third)
    with pytest.raises(CheckpointError, match="different linear maps"):
        mean_adapter([first, third], [1, 1])


def test_a_second_stage_of_qlora_starts_exactly_where_the_first_ended(tmp_path):
    first = adapted(QLORA, start=saved_base(tmp_path))
    save_adapter(first, tmp_path)
    frozen = [read_adapter(tmp_path)]
    second = attach(plain_policy(QLORA), QLORA, start=tmp_path, frozen=frozen, seed=9)
    assert (logprobs(second) - logprobs(first)).abs().max() < 1e-5
    assert len(list(second.trainable_parameters())) == 2 * NUM_MAPS
    at_the_start = logprobs(second)
    randomise(second, 5)
    assert not torch.equal(logprobs(second), at_the_start)
    with starting_weights(second):
        assert torch.equal(logprobs(second), at_the_start)
    assert set(backward(second)) == {
        n for n, p in second.model.named_parameters() if p.requires_grad
    }
    merged = dict(merged_weights(second))
    (tmp_path / "second").mkdir()
    save_adapter(second, tmp_path / "second")
    for name, parameter in load_policy(tmp_path / "second").model.named_parameters():
        torch.testing.assert_close(parameter, merged[name], rtol=0, atol=1e-6)


def test_sampling_and_training_on_a_cpu_see_the_same_4_bit_weights():
    policy = adapted(QLORA)
    before = logprobs(policy)
    with torch.inference_mode():
        ids = torch.tensor([[5, 6, 7]])
        positions = torch.arange(3)[None]
        policy.model(input_ids=ids, position_ids=positions)
    assert torch.equal(logprobs(policy), before)
