"""16-bit weights are rounded from float32 masters that move like float32 weights."""

import sys

import pytest
import torch

from tests.policies import random_sequences, tiny_policy
from tests.training.gradients import policy_in, set_gradients, train, weights_of
from vibelite.errors import RecipeError
from vibelite.recipe.model_section import Training
from vibelite.recipe.stage_section import Optimizer, SFTStage
from vibelite.stages.sft import accumulate_gradient
from vibelite.training import clip
from vibelite.training.optim import PolicyOptimizer

NUM_STEPS = 5


def train_with(policy, config, training):
    optimizer = PolicyOptimizer(policy, config, num_steps=NUM_STEPS, training=training)
    train(policy, optimizer, range(NUM_STEPS))


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_masters_of_bfloat16_weights_move_like_float32_weights(kind):
    config = Optimizer(kind=kind, lr=1e-3, muon_lr=1e-2, weight_decay=0.1)
    low, full = policy_in("bfloat16"), policy_in("bfloat16")
    full.model.float()
    train_with(low, config, Training(dtype="bfloat16"))
    train_with(full, config, Training())
    for mine, exact in zip(weights_of(low), weights_of(full), strict=True):
        assert torch.equal(mine, exact.bfloat16())


def test_buckets_do_not_change_the_update(monkeypatch):
    config = Optimizer(lr=1e-3)
    whole, pieces = tiny_policy(), tiny_policy()
    train_with(whole, config, Training())
    monkeypatch.setattr(clip, "BUCKET_ELEMENTS", 1000)
    train_with(pieces, config, Training())
    assert all(map(torch.equal, weights_of(whole), weights_of(pieces)))


def test_gradients_summed_in_bfloat16_are_used_rounded():
    config = Optimizer(lr=1e-3, max_grad_norm=1e9)
    rounded, reference = tiny_policy(), tiny_policy()
    train_with(rounded, config, Training(gradient_dtype="bfloat16"))
    optimizer = PolicyOptimizer(reference, config, num_steps=NUM_STEPS)
    for step in range(NUM_STEPS):
        set_gradients(reference, step)
        for parameter in reference.trainable_parameters():
            assert parameter.grad is not None
            parameter.grad = parameter.grad.bfloat16().float()
        optimizer.step(step)
    assert all(map(torch.equal, weights_of(rounded), weights_of(reference)))


def sft_gradient(tokens_per_micro_batch, gradient_dtype):
    """The gradient of one SFT step of a bfloat16 model."""
    policy = policy_in("bfloat16")
    stage = SFTStage(
        kind="sft", num_steps=1, checkpoint_every=1, optimizer=Optimizer(lr=1e-3),
        tokens_per_micro_batch=tokens_per_micro_batch,
    )  # fmt: skip
    training = Training(dtype="bfloat16", gradient_dtype=gradient_dtype)
    PolicyOptimizer(policy, stage.optimizer, num_steps=1, training=training)
    accumulate_gradient(policy, random_sequences(48), stage)
    grads = [p.grad for p in policy.trainable_parameters() if p.grad is not None]
    assert {grad.dtype for grad in grads} == {getattr(torch, gradient_dtype)}
    return torch.cat([grad.double().flatten() for grad in grads])


def test_summing_in_float32_keeps_what_micro_batches_lose_in_bfloat16():
    """Against the whole batch's gradient, the split one errs less when it is summed in float32."""
    whole = sft_gradient(10_000, "float32")
    errors = {
        dtype: ((sft_gradient(30, dtype) - whole).norm() / whole.norm()).item()
        for dtype in ("float32", "bfloat16")
    }
    assert errors["float32"] < 0.01
    assert errors["bfloat16"] > errors["float32"]


def test_weights_that_moved_after_the_optimizer_was_built_are_noticed():
    policy = tiny_policy()
    optimizer = PolicyOptimizer(policy, Optimizer(lr=1e-3), num_steps=1)
    parameter = next(iter(policy.trainable_parameters()))
    parameter.data = parameter.data.clone()
    set_gradients(policy, 0)
    with pytest.raises(AssertionError, match="the weights moved"):
        optimizer.step(0)


def test_a_parameter_without_gradient_stays_and_keeps_its_moments_fresh():
    policy, config = tiny_policy(), Optimizer(lr=1e-3, weight_decay=0.1)
    first = next(iter(policy.trainable_parameters()))
    before = first.detach().clone()
    optimizer = PolicyOptimizer(policy, config, num_steps=1)
    set_gradients(policy, 0)
    first.grad = None
    optimizer.step(0)
    assert torch.equal(first, before)
    assert 0 not in optimizer.state_dict()["state"]


def test_8_bit_moments_follow_exact_ones():
    pytest.importorskip("bitsandbytes")
    exact, coarse = tiny_policy(), tiny_policy()
    start = weights_of(exact)
    train_with(exact, Optimizer(lr=1e-3), Training())
    train_with(coarse, Optimizer(kind="adamw_8bit", lr=1e-3), Training())
    for before, mine, other in zip(start, weights_of(coarse), weights_of(exact), strict=True):
        assert (mine - other).norm() < 0.05 * (other - before).norm()


def test_8_bit_without_bitsandbytes_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(RecipeError, match="adamw_8bit needs bitsandbytes.*adamw_cpu"):
        PolicyOptimizer(tiny_policy(), Optimizer(kind="adamw_8bit", lr=1e-3), num_steps=1)


def test_paging_without_a_gpu_is_refused():
    pytest.importorskip("bitsandbytes")
    with pytest.raises(RecipeError, match="no GPU here; use adamw"):
        PolicyOptimizer(tiny_policy(), Optimizer(kind="adamw_8bit_paged", lr=1e-3), num_steps=1)
