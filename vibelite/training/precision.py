"""The precision policy: what is held in which type while a model is trained.

Weights       float32, bfloat16 or float16: what forward and backward read (training.dtype).
Activations   the weights' type; logsumexp, log-probs, entropies and the loss float32 (kernels/).
Gradients     arrive in the weights' type, are summed over micro-batches in training.gradient_dtype
              (float32 or bfloat16); their norm is float32.
Optimizer     weights that are updated are always float32: the weights themselves, or a master copy
              beside 16-bit ones, whose rounding the 16-bit weights then are. Moments are float32, 8
              bits with a scale per block under adamw_8bit.
float16       the loss is scaled so that small gradients do not underflow (LossScale).

No 16-bit weight is updated in place: at the learning rates of reinforcement learning (1e-6)
rounding to nearest would drop about 98 % of the updates. Stochastic rounding is not offered.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from vibelite.errors import RecipeError, VibeLiteError
from vibelite.recipe.model_section import Training

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# The published defaults of loss scaling (torch.amp.GradScaler).
INITIAL_SCALE = 2.0**16
GROWTH_INTERVAL = 2000
# Below this no loss is scaled up any more: what overflows then is not the scale's fault.
SMALLEST_SCALE = 1.0


def check_weights(parameters: Iterable[torch.Tensor], training: Training) -> None:
    """RecipeError unless all are float32, such as an adapter's beside a 16-bit model, or of
    `training.dtype`.
    """
    for parameter in parameters:
        if parameter.dtype in (torch.float32, DTYPES[training.dtype]):
            continue
        name = str(parameter.dtype).removeprefix("torch.")
        if name not in DTYPES:
            raise RecipeError(
                f"the model's weights are {name}, which cannot be trained; convert the model to "
                f"one of {', '.join(DTYPES)}"
            )
        raise RecipeError(
            f"the model's weights are {name}, but training.dtype is {training.dtype}: updated in "
            f"place, updates smaller than a step of {name} would vanish; set training.dtype: "
            f"{name} (the optimizer then keeps float32 masters), or start from weights in "
            f"{training.dtype}"
        )


def float32_master(parameter: torch.Tensor, device: torch.device | None = None) -> torch.Tensor:
    """The float32 values that an optimizer updates for `parameter`, on `device` (None = its own).

    Shares memory with a float32 parameter on that device; a copy otherwise.
    """
    return parameter.detach().to(device or parameter.device, torch.float32)


@dataclass
class LossScale:
    """The factor on the loss of a float16 model: halved when gradients overflow, doubled after
    GROWTH_INTERVAL steps without overflow (arXiv 1710.03740, 3.2). A power of two, so that scaling
    and unscaling round nothing.
    """

    value: float = INITIAL_SCALE
    num_skipped: int = 0
    num_good_steps: int = 0
    """Since the scale last changed."""

    def update(self, step: int, *, is_finite: bool) -> None:
        """Grows or backs off. VibeLiteError for an overflow of which it cannot be the reason."""
        if is_finite:
            self.num_good_steps += 1
            if self.num_good_steps == GROWTH_INTERVAL:
                self.value *= 2
                self.num_good_steps = 0
            return
        if self.value <= SMALLEST_SCALE:
            raise VibeLiteError(
                f"step {step}: the gradient is not finite even with the loss scaled by "
                f"{self.value:g}, after every larger scale overflowed; float16 has too small a "
                "range for this model: set training.dtype: bfloat16, or lower optimizer.lr and "
                "resume from an earlier checkpoint"
            )
        self.value /= 2
        self.num_skipped += 1
        self.num_good_steps = 0
