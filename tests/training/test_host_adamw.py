"""AdamW on the host against torch's: bit for bit. (On a GPU: test_optim_gpu.py.)"""

import gc
import weakref

import pytest
import torch

from tests.policies import random_sequences, tiny_policy
from tests.training.gradients import set_gradients, weights_of
from vibelite.recipe.model_section import Training
from vibelite.recipe.stage_section import Optimizer, SFTStage
from vibelite.stages.sft import accumulate_gradient
from vibelite.training.optim import PolicyOptimizer

CONFIG = Optimizer(
    kind="adamw_cpu", lr=1e-3, warmup_fraction=0, weight_decay=0.1, max_grad_norm=0.5
)
STAGE = SFTStage(
    kind="sft", num_steps=3, checkpoint_every=1, optimizer=CONFIG, tokens_per_micro_batch=60
)


def torch_adamw(parameters):
    return torch.optim.AdamW(
        parameters, lr=CONFIG.lr, betas=CONFIG.betas, weight_decay=CONFIG.weight_decay, fused=True
    )


def test_float32_sft_steps_are_torchs_own_bit_for_bit():
    """Three steps of several micro-batches each, gradients from backward."""
    ours, theirs = tiny_policy(), tiny_policy()
    optimizer = PolicyOptimizer(ours, CONFIG, num_steps=3)
    parameters = list(theirs.trainable_parameters())
    reference = torch_adamw(parameters)
    for step in range(3):
        sequences = random_sequences(12, seed=step)
        accumulate_gradient(ours, sequences, STAGE)
        metrics = optimizer.step(step)
        accumulate_gradient(theirs, sequences, STAGE)
        norm = torch.nn.utils.clip_grad_norm_(parameters, CONFIG.max_grad_norm)
        assert norm > CONFIG.max_grad_norm, "clipping must be part of the test"
        assert metrics["optimizer/grad_norm"] == norm.item()
        reference.step()
        reference.zero_grad()
        assert all(map(torch.equal, weights_of(ours), weights_of(theirs)))


def test_bfloat16_weights_are_the_rounding_of_torchs_float32_ones():
    ours, theirs = tiny_policy(), tiny_policy()
    ours.model.bfloat16()
    theirs.model.bfloat16().float()  # the values that the masters start from
    training = Training(dtype="bfloat16")
    optimizer = PolicyOptimizer(ours, CONFIG, num_steps=20, training=training)
    parameters = list(theirs.trainable_parameters())
    reference = torch_adamw(parameters)
    for step in range(20):
        set_gradients(ours, step)
        for mine, other in zip(ours.trainable_parameters(), parameters, strict=True):
            assert mine.grad is not None and mine.grad.dtype == torch.bfloat16
            other.grad = mine.grad.float()
        optimizer.step(step)
        torch.nn.utils.clip_grad_norm_(parameters, CONFIG.max_grad_norm)
        reference.step()
    masters = list(optimizer.state_dict()["masters"].values())
    assert all(map(torch.equal, masters, weights_of(theirs)))
    for mine, other in zip(weights_of(ours), weights_of(theirs), strict=True):
        assert torch.equal(mine, other.bfloat16())


def test_gradients_leave_during_backward():
    policy = tiny_policy()
    optimizer = PolicyOptimizer(policy, CONFIG, num_steps=3)
    accumulate_gradient(policy, random_sequences(6), STAGE)
    assert all(parameter.grad is None for parameter in policy.trainable_parameters())
    assert len(optimizer._update.gradients()) == len(weights_of(policy))


@pytest.mark.parametrize("gradient_dtype", ["float32", "bfloat16"])
def test_micro_batches_are_summed_in_the_gradients_type(gradient_dtype):
    policy = tiny_policy()
    training = Training(gradient_dtype=gradient_dtype)
    optimizer = PolicyOptimizer(policy, CONFIG, num_steps=1, training=training)
    expected = None
    for seed in range(4):
        set_gradients(policy, seed)
        grads = [p.grad for p in policy.trainable_parameters() if p.grad is not None]
        rounded = [grad.to(getattr(torch, gradient_dtype)) for grad in grads]
        expected = rounded if expected is None else [
            total + grad for total, grad in zip(expected, grads, strict=True)
        ]  # fmt: skip
        expected = [total.to(getattr(torch, gradient_dtype)) for total in expected]
        sums = optimizer._update.gradients()
    assert expected is not None
    assert all(map(torch.equal, sums, expected))


def test_a_dropped_optimizer_frees_its_state_and_lets_gradients_be():
    policy = tiny_policy()
    optimizer = PolicyOptimizer(policy, CONFIG, num_steps=1)
    update = weakref.ref(optimizer._update)
    del optimizer
    gc.collect()
    assert update() is None
    accumulate_gradient(policy, random_sequences(4), STAGE)
    assert all(parameter.grad is not None for parameter in policy.trainable_parameters())


def test_an_optimizer_over_part_of_the_model_leaves_the_rest_alone():
    policy = tiny_policy()
    frozen = policy.model.get_input_embeddings().weight
    assert isinstance(frozen, torch.nn.Parameter)
    frozen.requires_grad_(False)
    before = frozen.detach().clone()
    optimizer = PolicyOptimizer(policy, CONFIG, num_steps=1)
    start = weights_of(policy)
    accumulate_gradient(policy, random_sequences(6), STAGE)
    optimizer.step(0)
    assert torch.equal(frozen, before)
    assert not any(map(torch.equal, weights_of(policy), start))
