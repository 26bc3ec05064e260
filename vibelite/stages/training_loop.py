"""The loop of the stages that train: resume, take steps, keep models, save states, stop. What one
step does is the stage's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NoReturn

import torch

from vibelite.errors import RecipeError, RunStopped
from vibelite.models.policy import Policy
from vibelite.planning.plan import snapshot_bytes
from vibelite.recipe.stage_section import MGPOStage, SFTStage
from vibelite.run_dir import existing_model
from vibelite.stages.context import StageContext
from vibelite.telemetry.memory import available_bytes
from vibelite.training.checkpoint import NOTHING, ModelWriter, SaveSchedule, TrainingStates
from vibelite.training.optim import PolicyOptimizer
from vibelite.units import gib_text


def require_snapshot_memory(
    stage: SFTStage | MGPOStage, context: StageContext, policy: Policy
) -> None:
    """RecipeError, on all ranks, where the host has no room for the copies that are written beside
    the training.
    """
    trained = sum(parameter.numel() for parameter in policy.trainable_parameters())
    total = sum(parameter.numel() for parameter in policy.model.parameters())
    num_ranks = context.world.num_ranks // context.world.num_nodes
    needed = snapshot_bytes(stage, context.recipe, total, trained, num_ranks)

    def require() -> None:
        if (free := available_bytes()) < needed:
            raise RecipeError(
                f"stages.{stage.name}: while it trains, copies of weights and optimizer wait in "
                f"the host's memory to be saved: {gib_text(needed)} GiB, and {gib_text(free)} GiB "
                "are free; use an adapter, an optimizer.kind with smaller moments, or a machine "
                "with more memory"
            )

    context.world.from_leader(require)


class TrainingLoop:
    """One stage's steps, from the state that it resumes from; called by all ranks."""

    def __init__(
        self,
        stage: SFTStage | MGPOStage,
        context: StageContext,
        policy: Policy,
        optimizer: PolicyOptimizer,
        *,
        keep_every: int,
        extra: Mapping[str, torch.Tensor] = NOTHING,
    ) -> None:
        """`keep_every`: steps between models that are kept beside the last; 0 = none. `extra`: what
        a step changes in place beside the weights, saved and resumed with them.
        """
        require_snapshot_memory(stage, context, policy)
        self._num_steps = stage.num_steps
        self._context = context
        self._models = ModelWriter(policy, context.recipe.checkpoint)
        self._keep_every = keep_every
        self._states = TrainingStates(
            stage_dir=context.stage_dir,
            policy=policy,
            optimizer=optimizer,
            settings=context.recipe.checkpoint,
            schedule=SaveSchedule(
                context.recipe.checkpoint, every=stage.checkpoint_every, num_steps=stage.num_steps
            ),
            world=context.world,
            extra=extra,
        )
        self._start = 0

    def resume(self) -> int:
        """Loads the newest whole state; how many steps it is after, 0 without one."""
        with self._context.meter.span("load"):
            self._start = self._states.load()
        return self._start

    def run(self, take_step: Callable[[int], None]) -> None:
        """Takes every step that is left, by its 0-based number; each records itself.

        Where the run has to stop, saves what was trained and raises RunStopped. A step may raise it
        too, as long as it has changed no weight.
        """
        try:
            self._run(take_step)
        except BaseException:
            self._models.settle()
            self._states.writer.settle()
            raise

    def _run(self, take_step: Callable[[int], None]) -> None:
        recorder = self._context.recorder
        for step in range(self._start, self._num_steps):
            try:
                take_step(step)
            except RunStopped as reason:
                self._stop(step, reason)
            if self._is_kept(step + 1):
                self._keep(step + 1)
            reason = recorder.reason_to_stop()
            if reason is not None:
                self._stop(step + 1, reason)
            if self._states.is_due(step + 1):
                self._save(step + 1)
        self._finish_saving()

    def kept_models(self) -> list[Path]:
        """The models that a finished stage kept, in order of training; the last is the stage's."""
        steps = range(1, self._num_steps + 1)
        return [existing_model(self._path(step)) for step in steps if self._is_kept(step)]

    def _is_kept(self, step: int) -> bool:
        is_due = bool(self._keep_every) and step % self._keep_every == 0
        return is_due or step == self._num_steps

    def _path(self, step: int) -> Path:
        return self._context.stage_dir.checkpoints / f"step-{step:06d}"

    def _keep(self, step: int) -> None:
        with self._context.meter.span("checkpoint"):
            self._context.world.from_leader(partial(self._models.save, self._path(step)))

    def _save(self, step: int) -> None:
        with self._context.meter.span("checkpoint"):
            self._states.save(step, self._models)

    def _stop(self, step: int, reason: RunStopped) -> NoReturn:
        """Saves the state after `step` finished steps, then raises `reason`."""
        self._save(step)
        self._finish_saving()
        raise reason

    def _finish_saving(self) -> None:
        with self._context.meter.span("checkpoint"):
            self._context.world.from_leader(self._models.wait)
            self._states.writer.wait()
        self._context.recorder.record_work("checkpoint")
