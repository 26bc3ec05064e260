"""The learning-rate schedule by hand; AdamW against torch's own; what Muon is given."""

import math
from functools import partial

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from tests.policies import tiny_policy
from tests.training.gradients import set_gradients, weights_of
from vibelite.errors import VibeLiteError
from vibelite.models.policy import Policy
from vibelite.recipe.stage_section import Optimizer
from vibelite.training.optim import PolicyOptimizer, lr_scale


def test_cosine_schedule_has_the_hand_computed_values():
    config = Optimizer(lr=1.0, schedule="cosine", warmup_fraction=0.1, final_lr_fraction=0.2)
    scales = [lr_scale(config, step, 21) for step in range(21)]
    assert scales[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])  # ceil(2.1) = 3 warm-up steps
    assert scales[3] == 1.0
    assert scales[-1] == pytest.approx(0.2)
    middle = 3 + (21 - 1 - 3) / 2
    expected = 0.2 + 0.8 * 0.5 * (1 + math.cos(math.pi * (11 - 3) / 17))
    assert lr_scale(config, 11, 21) == pytest.approx(expected)
    assert lr_scale(config, int(middle), 21) > 0.6 > lr_scale(config, int(middle) + 1, 21)


def test_constant_schedule_stays_at_the_peak_after_warm_up():
    config = Optimizer(lr=1.0, warmup_fraction=0.5)
    assert [lr_scale(config, step, 4) for step in range(4)] == [0.5, 1.0, 1.0, 1.0]
    assert lr_scale(Optimizer(lr=1.0, warmup_fraction=0.0), 0, 4) == 1.0


def test_adamw_steps_are_torchs_own_after_clipping():
    ours, theirs = tiny_policy(), tiny_policy()
    config = Optimizer(lr=1e-3, warmup_fraction=0.0, weight_decay=0.1, max_grad_norm=0.5)
    optimizer = PolicyOptimizer(ours, config, num_steps=10)
    parameters = list(theirs.trainable_parameters())
    reference = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(5):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        metrics = optimizer.step(step)
        grads = [p.grad for p in parameters if p.grad is not None]
        norm = math.sqrt(sum((grad.double() ** 2).sum().item() for grad in grads))
        assert metrics["optimizer/grad_norm"] == pytest.approx(norm, rel=1e-5)
        for grad in grads:
            grad.mul_(min(1.0, 0.5 / norm))
        reference.step()
    for mine, other in zip(ours.trainable_parameters(), parameters, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7)


def scheduled(optimizer: torch.optim.Optimizer) -> LRScheduler:
    """Three steps of warm-up and a cosine to a fifth over ten steps, by torch's own schedulers."""
    (lr,) = {group["lr"] for group in optimizer.param_groups}
    warmup = LinearLR(optimizer, start_factor=1 / 3, total_iters=2)
    cosine = CosineAnnealingLR(optimizer, T_max=6, eta_min=lr / 5)
    return SequentialLR(optimizer, [warmup, cosine], milestones=[3])


def torchs_own(config: Optimizer, policy: Policy) -> list[torch.optim.Optimizer]:
    adamw = partial(
        torch.optim.AdamW, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
    )
    parameters = dict(policy.model.named_parameters())
    if config.kind == "adamw_8bit":  # that of bitsandbytes
        from bitsandbytes.optim import AdamW8bit  # pyright: ignore

        adamw = partial(AdamW8bit, **adamw.keywords)
    if config.kind != "muon":
        return [adamw(list(parameters.values()))]
    matrices = [p for name, p in parameters.items() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in parameters.items() if p.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(matrices, lr=config.muon_lr, weight_decay=config.weight_decay)
    return [adamw(others), muon]


@pytest.mark.parametrize("kind", ["adamw", "adamw_cpu", "adamw_8bit", "muon"])
def test_rates_and_decay_of_every_step_are_torchs_own(kind):
    """Under warm-up and cosine, with weight decay; several ranks: tests/distributed."""
    ours, theirs = tiny_policy(), tiny_policy()
    config = Optimizer(
        kind=kind, lr=1e-2, muon_lr=3e-2, weight_decay=0.5, warmup_fraction=0.3,
        schedule="cosine", final_lr_fraction=0.2, max_grad_norm=1e9,
    )  # fmt: skip
    optimizer = PolicyOptimizer(ours, config, num_steps=10)
    references = torchs_own(config, theirs)
    schedules = [scheduled(reference) for reference in references]
    for step in range(10):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        optimizer.step(step)
        optimizer.finish()
        for reference, schedule in zip(references, schedules, strict=True):
            reference.step()
            schedule.step()
        for mine, other in zip(weights_of(ours), weights_of(theirs), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("kind", ["adamw", "adamw_cpu"])
def test_a_gradient_that_is_not_finite_stops_before_the_weights_change(bad, kind):
    policy = tiny_policy()
    before = [parameter.detach().clone() for parameter in policy.trainable_parameters()]
    optimizer = PolicyOptimizer(policy, Optimizer(kind=kind, lr=1e-3), num_steps=10)
    set_gradients(policy, 0)
    next(iter(policy.trainable_parameters())).grad[0, 0] = bad  # type: ignore[index]
    with pytest.raises(VibeLiteError, match="step 4: the gradient's norm is"):
        optimizer.step(4)
    now = policy.trainable_parameters()
    assert all(torch.equal(old, new) for old, new in zip(before, now, strict=True))
