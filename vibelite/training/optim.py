"""Optimizers and the learning-rate schedule. The schedule is a pure function of the step, so it
needs no state.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from vibelite.errors import RecipeError, VibeLiteError
from vibelite.models.policy import Policy
from vibelite.recipe.stage_section import Optimizer


def lr_scale(config: Optimizer, step: int, num_steps: int) -> float:
    """Share of the peak learning rate at the 0-based `step`: linear warm-up, then constant or
    cosine.
    """
    num_warmup = math.ceil(config.warmup_fraction * num_steps)
    if step < num_warmup:
        return (step + 1) / num_warmup
    if config.schedule == "constant":
        return 1.0
    progress = (step - num_warmup) / max(1, num_steps - 1 - num_warmup)
    return config.final_lr_fraction + (1 - config.final_lr_fraction) * 0.5 * (
        1 + math.cos(math.pi * progress)
    )


class PolicyOptimizer:
    """AdamW, or Muon for the layers' matrices with AdamW for embeddings, norms and biases; with
    gradient clipping.
    """

    def __init__(self, policy: Policy, config: Optimizer, *, num_steps: int) -> None:
        self._config = config
        self._num_steps = num_steps
        self._parameters = list(policy.trainable_parameters())
        for parameter in self._parameters:
            if parameter.dtype != torch.float32:
                raise RecipeError(
                    f"the model's weights are {parameter.dtype}: updates smaller than a step of "
                    "that type would vanish; start from weights in float32"
                )
        matrices, others = _split_matrices(policy)
        adamw_parameters = others if config.kind == "muon" else self._parameters
        self._optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(
                adamw_parameters,
                lr=config.lr,
                betas=config.betas,
                weight_decay=config.weight_decay,
                fused=True,
            )
        ]
        self._peak_lrs = [config.lr]
        if config.kind == "muon":
            # Nesterov momentum 0.95 and five Newton-Schulz steps are the optimizer's published
            # defaults.
            self._optimizers.append(
                torch.optim.Muon(
                    matrices, lr=config.muon_lr, weight_decay=config.weight_decay, momentum=0.95
                )
            )
            self._peak_lrs.append(config.muon_lr)

    def step(self, step: int) -> dict[str, float]:
        """One update at the 0-based `step`, from the gradients in place, which are then dropped.

        Returns the learning rate and the gradient's norm before clipping; a gradient that is not
        finite stops the run.
        """
        grad_norm = torch.nn.utils.clip_grad_norm_(
            self._parameters, self._config.max_grad_norm
        ).item()
        if not math.isfinite(grad_norm):
            raise VibeLiteError(
                f"step {step}: the gradient's norm is {grad_norm}; "
                "lower optimizer.lr, or resume from an earlier checkpoint"
            )
        scale = lr_scale(self._config, step, self._num_steps)
        for optimizer, peak_lr in zip(self._optimizers, self._peak_lrs, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak_lr * scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return {"optimizer/lr": self._peak_lrs[0] * scale, "optimizer/grad_norm": grad_norm}

    def state_dict(self) -> dict[str, Any]:
        return {"optimizers": [optimizer.state_dict() for optimizer in self._optimizers]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)


def _split_matrices(policy: Policy) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    """The matrices inside the layers, and everything else."""
    outside = {id(policy.head), id(policy.model.get_input_embeddings().weight)}
    matrices, others = [], []
    for parameter in policy.trainable_parameters():
        is_matrix = parameter.ndim == 2 and id(parameter) not in outside
        (matrices if is_matrix else others).append(parameter)
    return matrices, others
