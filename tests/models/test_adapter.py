"""Adapters: what is trained and saved, what merging changes, and that sums in 4 bits are lost."""

from __future__ import annotations

import copy
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
    concatenated,
    dequantised,
    is_adapter,
    lora_layers,
    mean_adapter,
    merged_weights,
    read_adapter,
    save_adapter,
    starting_weights,
    write_adapter,
)
from vibelite.models.load import attach, linear_maps, load_policy, quantise
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


def adapted(
    settings: Adapter = LORA,
    *,
    start: Path = Path("base"),
    dtype: torch.dtype = torch.float32,
    scale: float = 0.05,
    seed: int = 1,
) -> Policy:
    """A tiny policy whose adapter is as if it had been trained: its factors are random."""
    policy = tiny_policy()
    torch.nn.Module.to(policy.model, dtype)
    if settings.kind == "qlora":
        pytest.importorskip("bitsandbytes")
        quantise(policy.model, CPU)
    policy = attach(policy, settings, start=start, seed=seed)
    randomise(policy, seed, scale)
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
    policy = tiny_policy()
    if kind == "qlora":
        pytest.importorskip("bitsandbytes")
        quantise(policy.model, CPU)
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
    untouched = tiny_policy()
    assert dict(merged_weights(untouched)).keys() == merged.keys()


def test_the_starting_weights_are_those_before_training_and_come_back():
    policy = adapted()
    after = logprobs(policy)
    with starting_weights(policy):
        assert torch.equal(logprobs(policy), logprobs(tiny_policy()))
    assert torch.equal(logprobs(policy), after)
    assert len(list(policy.trainable_parameters())) == 2 * NUM_MAPS
    whole = tiny_policy()
    with starting_weights(whole):
        assert torch.equal(logprobs(whole), logprobs(tiny_policy()))


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


def test_the_optimizer_holds_the_adapter_alone():
    policy = adapted()
    optimizer = PolicyOptimizer(policy, Optimizer(lr=1e-2), num_steps=2)
    frozen = {
        name: parameter.clone()
        for name, parameter in policy.model.named_parameters()
        if not parameter.requires_grad
    }
    before = [parameter.clone() for parameter in policy.trainable_parameters()]
    backward(policy)
    optimizer.step(0)
    state = optimizer.state_dict()
    numbers = sum(parameter.numel() for parameter in policy.trainable_parameters())
    moments = [value for entry in state["state"].values() for value in entry.values()]
    assert sum(value.numel() for value in moments if value.ndim == 2) == 2 * numbers
    parameters = dict(policy.model.named_parameters())
    assert all(torch.equal(parameters[name], value) for name, value in frozen.items())
    after = policy.trainable_parameters()
    assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True))


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
    # What averaging the factors themselves would have given is another model.
    one, two = (read_adapter(path).factors["model.layers.0.mlp.up_proj"] for path in paths[:2])
    of_factors = (one.up + two.up) @ (one.down + two.down) / 4
    of_products = (one.up @ one.down + two.up @ two.down) / 2
    assert (of_factors - of_products).abs().max() > 0.1 * of_products.abs().max()


def test_adapters_of_different_models_are_not_averaged(tmp_path):
    first, second, _ = specialists(tmp_path, "lora")
    tiny_policy(seed=3).save(tmp_path / "other")
    adapter = read_adapter(second)
    write_adapter(type(adapter)(tmp_path / "other", False, adapter.scale, adapter.factors), second)
    with pytest.raises(CheckpointError, match="is an adapter of .*other"):
        mean_adapter([first, second], [1, 1])


def test_rounding_a_sum_to_4_bits_again_forgets_the_adapter_so_it_stays_beside(tmp_path):
    pytest.importorskip("bitsandbytes")
    before = tiny_policy()
    quantise(before.model, CPU)
    grid = {name: dequantised(linear.weight) for name, linear in linear_maps(before.model)}
    again = copy.deepcopy(tiny_policy())
    generator = torch.Generator().manual_seed(0)
    moved = {}
    for name, linear in linear_maps(again.model):
        # A change of 0.3 % of the largest weight, as fine-tuning makes.
        noise = torch.randn(linear.weight.shape, generator=generator)
        moved[name] = 0.003 * grid[name].abs().max() * noise
        linear.weight.data = grid[name] + moved[name]
    quantise(again.model, CPU)
    for name, linear in linear_maps(again.model):
        kept = dequantised(linear.weight) - grid[name]
        # The share of the change that survives: its projection on what it should be. Here 0.03 at
        # most and 0.004 on average; 0.02 on average for a change three times as large.
        share = (kept * moved[name]).sum() / moved[name].square().sum()
        assert share < 0.05, (name, share)


def test_a_second_stage_of_qlora_starts_exactly_where_the_first_ended(tmp_path):
    pytest.importorskip("bitsandbytes")
    base = saved_base(tmp_path)
    first = adapted(QLORA, start=base)
    save_adapter(first, tmp_path)
    second = tiny_policy()
    quantise(second.model, CPU)
    second = attach(second, QLORA, start=tmp_path, frozen=[read_adapter(tmp_path)], seed=9)
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


def test_concatenated_adapters_must_be_on_the_same_maps(tmp_path):
    save_adapter(adapted(start=saved_base(tmp_path)), tmp_path)
    one = read_adapter(tmp_path)
    name = next(iter(one.factors))
    other = type(one)(one.base, False, 1.0, {name: one.factors[name]})
    with pytest.raises(CheckpointError, match="different linear maps"):
        concatenated([one, other], [1, 1])
    assert is_adapter(tmp_path) and not is_adapter(tmp_path / "base")
