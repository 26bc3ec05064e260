"""Which weights may be trained, and the scaled loss of float16: overflow, growth, its end."""

import math
from dataclasses import asdict

import pytest
import torch

from tests.policies import random_sequences, tiny_policy
from tests.training.gradients import policy_in, set_gradients, weights_of
from vibelite.errors import RecipeError, VibeLiteError
from vibelite.recipe.model_section import Training
from vibelite.recipe.stage_section import Optimizer, SFTStage
from vibelite.stages.sft import accumulate_gradient
from vibelite.training import precision
from vibelite.training.optim import PolicyOptimizer
from vibelite.training.precision import INITIAL_SCALE, LossScale, check_weights

FLOAT16 = Training(dtype="float16")
KINDS = ["adamw", "adamw_cpu"]


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_low_precision_weights_that_the_recipe_does_not_name_are_refused(name):
    weights = [torch.zeros(2), torch.zeros(2, dtype=getattr(torch, name))]
    with pytest.raises(RecipeError, match=f"weights are {name}.*would vanish.*dtype: {name}"):
        check_weights(weights, Training())
    check_weights(weights, Training(dtype=name))


def test_a_policy_in_bfloat16_is_refused_under_a_float32_recipe():
    policy = policy_in("bfloat16")
    with pytest.raises(RecipeError, match="bfloat16.*would vanish"):
        PolicyOptimizer(policy, Optimizer(lr=1e-6), num_steps=1)


def test_float32_adapters_beside_16_bit_weights_are_fine_other_types_are_not():
    check_weights([torch.zeros(2)], Training(dtype="bfloat16"))
    with pytest.raises(RecipeError, match="weights are float64, which cannot be trained"):
        check_weights([torch.zeros(2, dtype=torch.float64)], Training())


def test_the_scale_halves_on_overflow_and_doubles_after_the_interval(monkeypatch):
    monkeypatch.setattr(precision, "GROWTH_INTERVAL", 3)
    scale = LossScale()
    values = []
    for step, is_finite in enumerate([True, True, False, True, True, True, True]):
        scale.update(step, is_finite=is_finite)
        values.append(scale.value / INITIAL_SCALE)
    # The overflow starts the count again.
    assert values == [1, 1, 0.5, 0.5, 0.5, 1, 1]
    assert scale.num_skipped == 1


def test_a_gradient_that_overflows_at_every_scale_ends_the_run():
    scale = LossScale()
    for step in range(16):
        scale.update(step, is_finite=False)
    assert scale.value == 1
    with pytest.raises(VibeLiteError, match="step 16: .*every larger scale overflowed.*bfloat16"):
        scale.update(16, is_finite=False)


def test_the_restored_scale_goes_on_where_it_was(monkeypatch):
    monkeypatch.setattr(precision, "GROWTH_INTERVAL", 3)
    scale = LossScale()
    for step, is_finite in enumerate([False, True, True]):
        scale.update(step, is_finite=is_finite)
    restored = LossScale(**asdict(scale))
    restored.update(3, is_finite=True)
    assert (restored.value, restored.num_skipped) == (INITIAL_SCALE, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_an_overflow_skips_the_update_and_is_counted(kind):
    policy = policy_in("float16")
    optimizer = PolicyOptimizer(
        policy, Optimizer(kind=kind, lr=1e-2), num_steps=10, training=FLOAT16
    )
    before = weights_of(policy)
    set_gradients(policy, 0)
    next(iter(policy.trainable_parameters())).grad[0, 0] = math.inf  # type: ignore[index]
    metrics = optimizer.step(0)
    optimizer.finish()
    assert metrics["optimizer/skipped_steps"] == 1
    assert metrics["optimizer/loss_scale"] == optimizer.loss_scale == INITIAL_SCALE / 2
    assert "optimizer/grad_norm" not in metrics
    assert all(map(torch.equal, before, weights_of(policy)))
    assert all(parameter.grad is None for parameter in policy.trainable_parameters())

    set_gradients(policy, 1)
    metrics = optimizer.step(1)
    optimizer.finish()
    assert metrics["optimizer/skipped_steps"] == 1
    assert not any(map(torch.equal, before, weights_of(policy)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_scale_is_undone_exactly(kind):
    """Gradients times the scale give the norm and the masters of the gradients themselves."""
    config = Optimizer(kind=kind, lr=1e-3, max_grad_norm=0.5, warmup_fraction=0)
    scaled = policy_in("float16")
    optimizer = PolicyOptimizer(scaled, config, num_steps=10, training=FLOAT16)
    plain = policy_in("float16")
    reference = PolicyOptimizer(plain, config, num_steps=10, training=FLOAT16)
    assert reference._loss_scale is not None
    reference._loss_scale.value = 1.0
    for step in range(3):
        # 2^-20: the scaled gradients are in the range of float16, in which adamw_cpu gets them.
        set_gradients(scaled, step, scale=INITIAL_SCALE * 2**-8)
        set_gradients(plain, step, scale=2**-8)
        norms = [o.step(step)["optimizer/grad_norm"] for o in (optimizer, reference)]
        assert norms[0] == pytest.approx(norms[1], rel=1e-3 if kind == "adamw_cpu" else 0)
    if kind == "adamw":
        assert all(map(torch.equal, weights_of(scaled), weights_of(plain)))


def sft_gradient(policy, loss_scale):
    stage = SFTStage(kind="sft", num_steps=1, checkpoint_every=1, optimizer=Optimizer(lr=1e-3))
    accumulate_gradient(policy, random_sequences(8), stage, loss_scale=loss_scale)
    grads = [p.grad for p in policy.trainable_parameters() if p.grad is not None]
    return torch.cat([grad.double().flatten() for grad in grads]) / loss_scale


def test_scaling_saves_gradients_that_float16_would_lose():
    """A loss scaled by 2^-16 stands for a step of many more tokens than fit into a test."""
    exact = sft_gradient(tiny_policy(), 1.0)
    errors = {}
    for loss_scale in (2.0**-16, 1.0):
        policy = policy_in("float16")
        PolicyOptimizer(policy, Optimizer(lr=1e-3), num_steps=1, training=FLOAT16)
        found = sft_gradient(policy, loss_scale)
        errors[loss_scale] = ((found - exact).norm() / exact.norm()).item()
    assert errors[1.0] < 0.01
    assert errors[2.0**-16] > 5 * errors[1.0]
