"""How much of an update at a learning rate of reinforcement learning reaches the weights."""

import pytest
import torch

from vibelite.models.policy import Policy
from vibelite.recipe.model_section import Training
from vibelite.recipe.stage_section import Optimizer
from vibelite.training.optim import PolicyOptimizer

LR = 1e-6
NUM_WEIGHTS = 1 << 16


class Weights(torch.nn.Module):
    """Entries ~ N(0, 0.02), as in a language model."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        values = torch.randn(NUM_WEIGHTS, generator=generator) * 0.02
        self.values = torch.nn.Parameter(values.to(dtype))


def gradient() -> torch.Tensor:
    """The same at every step, so that AdamW moves every entry by the learning rate each time."""
    return torch.randn(NUM_WEIGHTS, generator=torch.Generator().manual_seed(1))


def moved_share(before: torch.Tensor, after: torch.Tensor, num_steps: int) -> float:
    """How far the entries went, as a share of num_steps x lr, against the gradient's sign."""
    moved = (before.double() - after.double()) * gradient().sign()
    return moved.mean().item() / (num_steps * LR)


def train(kind: str, dtype: str, num_steps: int, gradient_dtype: str = "float32"):
    """The float32 values that the optimizer updates, and the weights, each before and after."""
    weights = Weights(getattr(torch, dtype))
    policy = Policy(weights, None)  # pyright: ignore[reportArgumentType]
    training = Training(dtype=dtype, gradient_dtype=gradient_dtype)  # pyright: ignore[reportArgumentType]
    config = Optimizer(kind=kind, lr=LR, warmup_fraction=0)  # pyright: ignore[reportArgumentType]
    optimizer = PolicyOptimizer(policy, config, num_steps=num_steps, training=training)
    before = weights.values.detach().clone()
    for step in range(num_steps):
        weights.values.grad = gradient().to(weights.values.grad_dtype)
        optimizer.step(step)
        optimizer.finish()
    masters = list(optimizer.state_dict()["masters"].values()) or [weights.values.detach()]
    return before, masters[0], weights.values.detach()


@pytest.mark.parametrize("num_steps", [1, 100])
@pytest.mark.parametrize("gradient_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["adamw", "adamw_cpu"])
def test_every_update_is_kept_in_float32(kind, dtype, gradient_dtype, num_steps):
    before, master, weights = train(kind, dtype, num_steps, gradient_dtype)
    assert moved_share(before, master, num_steps) == pytest.approx(1, abs=5e-3)
    assert torch.equal(weights, master.to(weights.dtype))


@pytest.mark.parametrize("num_steps", [1, 100])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_8_bit_moments_lose_no_update(dtype, num_steps):
    """Single entries go a little too far or not far enough; on average nothing is lost."""
    pytest.importorskip("bitsandbytes")
    before, master, weights = train("adamw_8bit", dtype, num_steps)
    assert moved_share(before, master, num_steps) == pytest.approx(1, abs=0.05)
    assert torch.equal(weights, master.to(weights.dtype))


def test_a_masters_progress_reaches_bfloat16_weights_in_the_end():
    """100 updates of 1e-6 are about one step of bfloat16 at 0.02: most entries have moved, and by
    the right amount on average, as rounding errs to both sides.
    """
    before, _, weights = train("adamw", "bfloat16", 100)
    assert (weights != before).double().mean().item() > 0.6
    assert moved_share(before, weights, 100) == pytest.approx(1, abs=0.02)
