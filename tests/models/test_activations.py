"""Kept, checkpointed, offloaded and tiled activations give one gradient; sampling is left alone."""

import copy
import gc
import weakref
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from tests.models.families import random_model
from tests.policies import random_sequences, tiny_policy
from vibelite.data.batching import TrainingSequence, pack, split_by_tokens
from vibelite.errors import RecipeError
from vibelite.models import activations
from vibelite.models.activations import apply_activations
from vibelite.models.policy import Policy
from vibelite.recipe.model_section import Training
from vibelite.rollout.engine import SamplingSettings, generate
from vibelite.rollout.transformers_engine import TransformersEngine
from vibelite.stages.sft import weighted_nll

CPU = torch.device("cpu")
CHECKPOINTS = ("checkpoint", "checkpoint_offload")
# A gradient's largest error, as a share of its largest number. Tiles only change the order in which
# float32 products are summed.
TOLERANCE = 2e-6


def llama_policy() -> Policy:
    sizes: dict[str, Any] = {"hidden_size": 24, "num_attention_heads": 3, "num_key_value_heads": 1}
    return replace(tiny_policy(), model=random_model("Llama", tie_word_embeddings=True, **sizes))


def gradients(
    policy: Policy, sequences: list[TrainingSequence], *, budget: int = 10_000
) -> dict[str, torch.Tensor]:
    """Gradients by parameter after micro-batches of `budget` tokens."""
    for indices in split_by_tokens([len(s.token_ids) for s in sequences], budget):
        batch = pack([sequences[index] for index in indices], CPU)
        weights = batch.token_weights[batch.completion_mask]
        policy.token_loss(batch, partial(weighted_nll, weights)).loss.backward()
    return collected(policy)


def collected(policy: Policy) -> dict[str, torch.Tensor]:
    return {
        name: parameter.grad
        for name, parameter in policy.model.named_parameters()
        if parameter.grad is not None
    }


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        scale = gradient.abs().max().item()
        assert scale > 0, name
        torch.testing.assert_close(
            found[name], gradient, rtol=0, atol=TOLERANCE * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("build", [tiny_policy, llama_policy], ids=["qwen2", "llama"])
@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_checkpointing_changes_no_bit_of_the_gradient(build, kind):
    sequences = random_sequences(6, seed=1)
    kept, policy = build(), build()
    apply_activations(policy.model, Training(activations=kind))
    expected, found = gradients(kept, sequences), gradients(policy, sequences)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name


@pytest.mark.parametrize("build", [tiny_policy, llama_policy], ids=["qwen2", "llama"])
@pytest.mark.parametrize("kind", ["keep", *CHECKPOINTS])
@pytest.mark.parametrize("tile_tokens", [1, 7, 32])
def test_tiled_gradient_is_the_whole_one(build, kind, tile_tokens):
    """Tiles of one token, and of sizes that do not divide the 60-odd tokens."""
    sequences = random_sequences(5, seed=2)
    kept, policy = build(), build()
    apply_activations(policy.model, Training(activations=kind, mlp_tile_tokens=tile_tokens))
    assert_same(gradients(policy, sequences), gradients(kept, sequences))


@pytest.mark.parametrize("kind", ["keep", *CHECKPOINTS])
def test_the_gradient_does_not_depend_on_the_split_into_micro_batches(kind):
    sequences = random_sequences(8, seed=3, longest=40)
    kept, policy = tiny_policy(), tiny_policy()
    apply_activations(policy.model, Training(activations=kind, mlp_tile_tokens=16))
    assert_same(gradients(policy, sequences, budget=50), gradients(kept, sequences))


def sum_of_logprobs(policy: Policy, sequences: list[TrainingSequence]) -> torch.Tensor:
    return policy.token_loss(pack(sequences, CPU), lambda logprobs, entropy, rows: logprobs).loss


def test_two_forward_passes_before_their_backward_passes_keep_their_own_inputs():
    first, second = random_sequences(3, seed=4), random_sequences(4, seed=5)
    kept, policy = tiny_policy(), tiny_policy()
    apply_activations(policy.model, Training(activations="checkpoint_offload", mlp_tile_tokens=9))
    for p in (kept, policy):
        losses = [sum_of_logprobs(p, sequences) for sequences in (first, second)]
        losses[0].backward()
        losses[1].backward()
    assert_same(collected(policy), collected(kept))


def test_gradients_of_bfloat16_weights_are_summed_in_float32():
    """250 tiles may cost the rounding of each, about that of the sum, which the whole has too."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(16, 16, bias=False, dtype=torch.bfloat16)
    hidden, upstream = torch.randn(2, 1, 1000, 16, dtype=torch.bfloat16)
    exact = upstream[0].double().T @ hidden[0].double()
    errors = []
    for tile_tokens in (1000, 4):
        output = activations._tiled(tile_tokens, linear, linear.forward, hidden)
        (gradient,) = torch.autograd.grad(output, [linear.weight], upstream)
        errors.append(((gradient.double() - exact).norm() / exact.norm()).item())
    assert errors[1] < 1.7 * errors[0]


def test_a_checkpointed_layer_computes_its_mlp_twice_not_three_times(monkeypatch):
    policy = tiny_policy(num_layers=1)
    mlp = policy.model.model.layers[0].mlp
    rows = []
    mlp.gate_proj.register_forward_hook(lambda module, args, output: rows.append(args[0].shape[1]))
    apply_activations(policy.model, Training(activations="checkpoint", mlp_tile_tokens=8))
    batch = pack(random_sequences(4, seed=8), CPU)
    policy.token_loss(batch, lambda logprobs, entropy, rows: logprobs).loss.backward()
    assert sum(rows) == 2 * batch.num_tokens
    assert max(rows) <= 8


@pytest.mark.parametrize("kind", ["keep", *CHECKPOINTS])
def test_sampling_runs_the_modules_as_they_were(kind, monkeypatch):
    prompts = [[7, 8, 9, 10], [11, 12], list(range(20, 50))]
    settings = SamplingSettings(3, 8)

    def sample(policy: Policy) -> list[list[tuple[tuple[int, ...], tuple[float, ...]]]]:
        engine = TransformersEngine(policy, stop_ids=[4], max_sequences=9)
        return [
            [(c.token_ids, c.sampler_logprobs) for c in group]
            for group in generate(engine, prompts, settings, seed=1)
        ]

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("sampling went through the training path")

    policy = tiny_policy()
    apply_activations(policy.model, Training(activations=kind, mlp_tile_tokens=2))
    monkeypatch.setattr(activations, "checkpoint", refuse)
    monkeypatch.setattr(activations._RememberInput, "apply", refuse)
    assert sample(policy) == sample(tiny_policy())


@pytest.mark.parametrize("kind", ["keep", *CHECKPOINTS])
def test_log_probs_without_gradient_are_tiled_and_keep_nothing(kind):
    batch = pack(random_sequences(5, seed=9), CPU)
    policy = tiny_policy()
    apply_activations(policy.model, Training(activations=kind, mlp_tile_tokens=8))
    rows = []
    policy.model.model.layers[0].mlp.up_proj.register_forward_hook(
        lambda module, args, output: rows.append(args[0].shape[1])
    )
    with torch.no_grad():
        found, _ = policy.logprobs(batch)
    expected, _ = tiny_policy().logprobs(batch)
    assert max(rows) == 8 and sum(rows) == batch.num_tokens
    torch.testing.assert_close(found, expected.detach(), rtol=0, atol=2e-6)


def test_a_copy_trains_its_own_weights():
    policy = tiny_policy()
    apply_activations(policy.model, Training(activations="checkpoint", mlp_tile_tokens=8))
    copied = replace(policy, model=copy.deepcopy(policy.model))
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.zero_()
    assert_same(
        gradients(copied, random_sequences(4)), gradients(tiny_policy(), random_sequences(4))
    )
    assert all(parameter.grad is None for parameter in policy.model.parameters())


def test_a_dropped_model_is_freed_without_the_garbage_collector():
    policy = tiny_policy()
    apply_activations(policy.model, Training(activations="checkpoint_offload", mlp_tile_tokens=8))
    gradients(policy, random_sequences(3))
    alive = [weakref.ref(module) for module in policy.model.modules()]
    gc.disable()
    try:
        del policy
        assert [module() for module in alive if module() is not None] == []
    finally:
        gc.enable()


def test_names_of_parameters_and_classes_stay_as_they_are():
    policy, kept, plain = tiny_policy(), tiny_policy(), tiny_policy()
    apply_activations(policy.model, Training(activations="checkpoint", mlp_tile_tokens=8))
    apply_activations(kept.model, Training())
    assert list(policy.model.state_dict()) == list(plain.model.state_dict())
    kinds = [[type(module) for module in p.model.modules()] for p in (policy, kept, plain)]
    assert [kind.__name__ for kind in kinds[0]] == [kind.__name__ for kind in kinds[2]]
    assert kinds[1] == kinds[2] != kinds[0]


def test_a_model_of_unknown_layers_is_refused():
    with pytest.raises(RecipeError, match="activations is checkpoint.*Sequential"):
        apply_activations(torch.nn.Sequential(), Training(activations="checkpoint"))


def test_a_forward_replaced_by_a_loader_is_refused():
    policy = tiny_policy()
    layer = policy.model.model.layers[0]
    layer.forward = layer.forward
    with pytest.raises(RecipeError, match="replaced the forward of Qwen2DecoderLayer"):
        apply_activations(policy.model, Training(activations="checkpoint"))
