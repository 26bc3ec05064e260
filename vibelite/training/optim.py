"""The optimizer of a policy: schedule, clipping, loss scaling, and one of several ways to update.

The schedule is a pure function of the step, so it needs no state. What is held in which type is
said in `precision.py`; how many bytes that is, in `planning/memory_model.py`.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import torch

from vibelite.errors import CheckpointError, RecipeError, VibeLiteError
from vibelite.models.policy import Policy
from vibelite.ranks.full_sharding import FullyShardedPolicy
from vibelite.ranks.ranks import ONE_RANK, Ranks
from vibelite.ranks.world import World
from vibelite.recipe.model_section import Training
from vibelite.recipe.stage_section import Optimizer
from vibelite.training.clip import clip_factor, global_norm
from vibelite.training.device_update import DeviceUpdate, Update, adamw, adamw_8bit, muon
from vibelite.training.host_adamw import HostAdamW
from vibelite.training.precision import DTYPES, LossScale, check_weights
from vibelite.training.shared_adamw import CutWeightsAdamW, WholeWeightsAdamW


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
    """Updates a policy's trainable parameters from the gradients that backward passes left.

    The loss must be multiplied by `loss_scale` before its gradient is computed; `step` undoes it.
    """

    def __init__(
        self,
        policy: Policy,
        config: Optimizer,
        *,
        num_steps: int,
        training: Training = Training(),  # noqa: B008 (frozen)
        world: Ranks = ONE_RANK,
    ) -> None:
        """`world`: the ranks that share the update."""
        self._config = config
        self._world = world
        self._num_steps = num_steps
        check_weights(policy.trainable_parameters(), training)
        self._loss_scale = LossScale() if training.dtype == "float16" else None
        self._update = _update(policy, config, DTYPES[training.gradient_dtype], self._world)

    @property
    def loss_scale(self) -> float:
        """What to multiply the loss by; 1 unless the weights are float16."""
        return self._loss_scale.value if self._loss_scale is not None else 1.0

    def step(self, step: int) -> dict[str, float]:
        """One update at the 0-based `step` from the gradients, which are then dropped; the learning
        rate and the gradient's norm before clipping.

        A gradient that is not finite stops the run, except under a scaled loss: then the update is
        skipped and counted, and the norm is missing. The weights may be used after `finish`.
        """
        loss_scale = self.loss_scale
        norm = self._world.norm(global_norm(self._update.gradients()).cpu()) / loss_scale
        scale = lr_scale(self._config, step, self._num_steps)
        metrics = {"optimizer/lr": self._config.lr * scale}
        is_finite = math.isfinite(norm)
        if is_finite:
            factor = clip_factor(norm, self._config.max_grad_norm) / loss_scale
            self._update.apply(factor.item(), scale)
            metrics["optimizer/grad_norm"] = norm.item()
        else:
            self._update.drop_gradients()
        if self._loss_scale is not None:
            self._loss_scale.update(step, is_finite=is_finite)
            metrics["optimizer/loss_scale"] = self._loss_scale.value
            metrics["optimizer/skipped_steps"] = self._loss_scale.num_skipped
        elif not is_finite:
            raise VibeLiteError(
                f"step {step}: the gradient's norm is {norm.item()}; "
                "lower optimizer.lr, or resume from an earlier checkpoint"
            )
        return metrics

    def finish(self) -> None:
        """Returns when the weights are whole after `step`; called before anything reads them."""
        self._update.finish()

    def state_dict(self) -> dict[str, Any]:
        state = {"kind": self._config.kind, **self._update.state_dict()}
        if self._loss_scale is not None:
            state["loss_scale"] = asdict(self._loss_scale)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a `state_dict` over the same parameters, whose saved values are in place."""
        if state.get("kind") != self._config.kind:
            raise CheckpointError(
                f"the saved state is that of optimizer.kind {state.get('kind')}, "
                f"not {self._config.kind}; use another run directory"
            )
        self._update.load_state_dict({"state": {}, "masters": {}} | state)
        if self._loss_scale is not None:
            self._loss_scale = LossScale(**state["loss_scale"])


def _update(policy: Policy, config: Optimizer, gradient_dtype: torch.dtype, world: Ranks) -> Update:
    parameters = list(policy.trainable_parameters())
    if isinstance(world, World):
        if config.kind != "adamw":
            raise RecipeError(
                f"optimizer.kind {config.kind}: only adamw shares its state and its update among "
                "several GPUs; use it, or num_gpus: 1"
            )
        if isinstance(policy, FullyShardedPolicy):
            return CutWeightsAdamW(policy, config)
        return WholeWeightsAdamW(policy, config, gradient_dtype, world)
    match config.kind:
        case "adamw":
            return DeviceUpdate([adamw(parameters, config)], gradient_dtype)
        case "muon":
            matrices, others = _split_matrices(policy)
            parts = [adamw(others, config)] if others else []  # an adapter is matrices only
            return DeviceUpdate([*parts, muon(matrices, config)], gradient_dtype)
        case "adamw_8bit" | "adamw_8bit_paged":
            return DeviceUpdate([adamw_8bit(parameters, config)], gradient_dtype)
        case "adamw_cpu":
            return HostAdamW(parameters, config, gradient_dtype)


def _split_matrices(policy: Policy) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    """The matrices inside the layers, and everything else."""
    model = policy.model
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]
    outside = {id(end.weight) for end in ends if end is not None}
    matrices, others = [], []
    for parameter in policy.trainable_parameters():
        is_matrix = parameter.ndim == 2 and id(parameter) not in outside
        (matrices if is_matrix else others).append(parameter)
    return matrices, others
