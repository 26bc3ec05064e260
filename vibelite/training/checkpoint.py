"""Models, and resumable training states: weights and optimizer at a step. Learning rate, random
numbers and data order are functions of the seed and the step.

Both are directories that have their name, with checksums, only when they are complete and on the
disk; a process killed at any moment leaves the one before. The newest whole state is resumed from.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from vibelite.errors import CheckpointError
from vibelite.models.adapter import save_adapter
from vibelite.models.policy import Policy
from vibelite.ranks.ranks import ONE_RANK, Ranks
from vibelite.ranks.states import (
    Background,
    State,
    StateWriter,
    fill_state,
    host_stager,
    load_whole,
)
from vibelite.recipe.run_section import Checkpoint
from vibelite.run_dir import StageDir, drop_directory, new_directory
from vibelite.storage import damage_of, free_bytes, require_free, storage_errors
from vibelite.training.optim import PolicyOptimizer

GIB = 2**30
# Headers and names beside the tensors; a tokenizer beside a model is within the recipe's margin.
HEADER_BYTES = 2**20
# What DCP writes with each tensor at least: a zip archive of one entry, and its row of .metadata.
TENSOR_HEADER_BYTES = 1600
# Between two failures of the machine, on average: a guess for one that may be taken away.
SECONDS_BETWEEN_FAILURES = 24 * 3600.0
NOTHING: Mapping[str, torch.Tensor] = MappingProxyType({})


def best_interval(save_seconds: float, mtbf_seconds: float) -> float:
    """Seconds of training between two saves that lose least to saving and to redone work: Young's
    sqrt(2 C M) for a save of C seconds and a mean time M between failures (CACM 17(9), 1974).
    """
    return math.sqrt(2 * save_seconds * mtbf_seconds)


@dataclass
class SaveSchedule:
    """Says after which steps of a stage its training state is saved."""

    settings: Checkpoint
    every: int
    """Steps between saves where they are counted."""
    num_steps: int
    clock: Callable[[], float] = time.monotonic
    _seconds: list[float] = field(default_factory=list)
    """What each save took."""

    def __post_init__(self) -> None:
        self._last_save = self.clock()

    def is_due(self, step: int) -> bool:
        """Whether to save after `step` finished steps; always after the last. By time, the first
        step is saved too: it measures what a save takes.
        """
        if step == self.num_steps:
            return True
        if self.settings.by == "steps":
            return step % self.every == 0
        if not self._seconds:
            return True
        interval = best_interval(median(self._seconds), SECONDS_BETWEEN_FAILURES)
        return self.clock() - self._last_save >= interval

    def saved(self, seconds: float) -> None:
        """Takes what the save that ends now took."""
        self._seconds.append(seconds)
        self._last_save = self.clock()


@dataclass(slots=True, kw_only=True)
class TrainingStates:
    """The states of one training stage: when one is saved, and which one it resumes from. They are
    written beside the training, one at a time.
    """

    stage_dir: StageDir
    policy: Policy
    optimizer: PolicyOptimizer
    settings: Checkpoint
    schedule: SaveSchedule
    world: Ranks
    """Those that save and resume together."""
    extra: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """What else a step changes in place; the same on all ranks."""
    writer: StateWriter = field(init=False)
    _last: int = 0

    def __post_init__(self) -> None:
        self.writer = StateWriter(self.world)

    def load(self) -> int:
        """Loads the newest whole state in place and drops the records of later steps; the number
        of finished steps.
        """
        resume = self.stage_dir.resume
        if self.world.is_leader:
            for path in self.stage_dir.checkpoints.glob(".*.tmp"):  # of a killed process
                drop_directory(path)
        step = load_training_state(
            resume, self.policy, self.optimizer, world=self.world, extra=self.extra
        )
        self._last = step
        num_recorded = self.stage_dir.truncate_after(step) if self.world.is_leader else 0
        if num_recorded and not step:
            warn(
                f"{resume}: holds no saved state, though {num_recorded} steps were recorded: the "
                "stage starts again from its first step"
            )
        return step

    def is_due(self, step: int) -> bool:
        """Whether to save after `step` finished steps. Raises what kept the last state from being
        written, if that is known by now.
        """

        def decide() -> bool:
            self.writer.raise_failure()
            return self.schedule.is_due(step)

        return self.world.from_leader(decide)

    def save(self, step: int, models: ModelWriter) -> None:
        """Starts to save the state after `step` finished steps; their records and the models kept
        of them are on the disk before it. `writer.wait` returns when it is there too.
        """
        if step == self._last:  # resumed from it, or stopped right after it
            return
        start = time.monotonic()
        if self.world.is_leader:
            self.stage_dir.sync_records()
        start_saving(
            self.writer,
            state_directory(self.stage_dir.resume, step),
            state_of(self.policy, self.optimizer, self.extra),
            self.settings,
            models.pending(),
        )
        self._last = step
        self.schedule.saved(time.monotonic() - start)


class ModelWriter(Background):
    """Writes the models that a stage keeps, one at a time, beside its training."""

    def __init__(self, policy: Policy, settings: Checkpoint) -> None:
        super().__init__()
        self._policy = policy
        self._settings = settings
        self._stager = host_stager()

    def save(self, directory: Path) -> None:
        """Copies the weights, which may change afterwards, and starts to write them as a Hugging
        Face directory, or an adapter alone, whole or not at all. DiskFull, with nothing written,
        where it does not fit. The model before is waited for.
        """
        self.wait()
        policy = self._policy
        require_free(
            directory,
            sum(parameter.nbytes for parameter in policy.trainable_parameters()) + HEADER_BYTES,
            margin_bytes=int(self._settings.free_gib * GIB),
            what="a model",
        )
        if policy.adapter is not None:  # small
            with storage_errors(directory), new_directory(directory) as temporary:
                save_adapter(policy, temporary)
            return
        weights: Any = self._stager.stage({k: v.detach() for k, v in policy.weights().items()})
        self.start(partial(self._write, directory, weights))

    def _write(self, directory: Path, weights: dict[str, torch.Tensor]) -> None:
        with storage_errors(directory), new_directory(directory) as temporary:
            self._policy.save_weights(temporary, weights)


def state_of(
    policy: Policy, optimizer: PolicyOptimizer, extra: Mapping[str, torch.Tensor]
) -> State:
    """What a training state holds; `extra` as in `TrainingStates`."""
    # Trainable parameters once each: a tied head is its embedding.
    weights = {name: parameter.detach() for name, parameter in trained(policy).items()}
    state: State = {"weights": weights, "optimizer": optimizer.state_dict()}
    return state | {"extra": dict(extra)} if extra else state


def start_saving(
    writer: StateWriter,
    directory: Path,
    state: State,
    settings: Checkpoint,
    first: Callable[[], None],
) -> None:
    """Starts to save `state`, `first` as in `StateWriter.save`; then what it supersedes is removed,
    or before where it does not fit, but never the newest whole one. DiskFull, with nothing written,
    where that is not enough. Called by all ranks.
    """
    root, step = directory.parent, step_of(directory)
    writer.wait()
    tensors = [leaf for leaf in tree_leaves(state) if isinstance(leaf, torch.Tensor)]
    num_bytes = sum(t.nbytes + TENSOR_HEADER_BYTES for t in tensors) + HEADER_BYTES
    margin_bytes = int(settings.free_gib * GIB)

    def require_room() -> None:
        make_room(root, num_bytes + margin_bytes)
        require_free(root, num_bytes, margin_bytes=margin_bytes, what="a training state")

    writer.world.from_leader(require_room)
    superseded = partial(drop_superseded, root, step, settings)
    writer.save(directory, state, first=first, then=superseded)


def drop_superseded(root: Path, step: int, settings: Checkpoint) -> None:
    """Keeps the last states up to that of `step`."""
    # A later one is damaged, or it would have been resumed from.
    kept = [saved for saved in saved_steps(root) if saved <= step][-settings.keep_last :]
    for saved in saved_steps(root):
        if saved not in kept:
            drop_directory(state_directory(root, saved))


def make_room(root: Path, num_bytes: int) -> None:
    """Drops leftovers and then superseded states, oldest first, until `num_bytes` are free or only
    the newest whole state is left.
    """
    for path in root.glob(".step-*"):  # of a killed process
        drop_directory(path)
    if free_bytes(root) >= num_bytes:
        return
    whole = (s for s in reversed(saved_steps(root)) if not damage_of(state_directory(root, s)))
    last = next(whole, None)
    for step in saved_steps(root):
        if free_bytes(root) >= num_bytes:
            return
        if step != last:
            drop_directory(state_directory(root, step))


def load_training_state(
    root: Path,
    policy: Policy,
    optimizer: PolicyOptimizer,
    *,
    world: Ranks = ONE_RANK,
    extra: Mapping[str, torch.Tensor] = NOTHING,
) -> int:
    """Loads the newest whole state under `root` in place; the number of finished steps, 0 if none
    was saved. Called by all ranks of `world`.
    """
    step = world.from_leader(lambda: step_to_resume(root))
    if step:
        restore(state_directory(root, step), policy, optimizer, world, extra)
    return step


def step_to_resume(root: Path) -> int:
    """The step of the newest whole state; 0 if none was saved. Damaged ones are skipped with a
    warning; CheckpointError if all are: starting over is for the user to decide.
    """
    steps = saved_steps(root)
    for step in reversed(steps):
        directory = state_directory(root, step)
        if damage := damage_of(directory):
            warn(f"{damage}; the state after step {step} is skipped")
            continue
        return step
    if steps:
        raise CheckpointError(
            f"{root}: none of the saved states ({len(steps)}) is whole; restore one from a copy, "
            "or remove this directory to start the stage again"
        )
    return 0


def restore(
    directory: Path,
    policy: Policy,
    optimizer: PolicyOptimizer,
    world: Ranks,
    extra: Mapping[str, torch.Tensor],
) -> None:
    """Loads a whole state in place; CheckpointError if it is that of another model, optimizer or
    set of problems.
    """
    parameters = trained(policy)
    if world.is_one:
        # On the host: the optimizer knows which of its state belongs on the device.
        state = load_whole(directory)
    else:
        weights = {name: torch.empty_like(parameter) for name, parameter in parameters.items()}
        state = state_of(policy, optimizer, extra) | {"weights": weights}
        fill_state(directory, state, world)
    saved = {name: weight.shape for name, weight in state["weights"].items()}
    if saved != {name: parameter.shape for name, parameter in parameters.items()}:
        raise CheckpointError(
            f"{directory}: belongs to another model; remove it or use another run directory"
        )
    others = {name: values.shape for name, values in state.get("extra", {}).items()}
    if others != {name: values.shape for name, values in extra.items()}:
        raise CheckpointError(
            f"{directory}: remembers other problems; remove it or use another run directory"
        )
    with torch.no_grad():
        for name, values in extra.items():
            values.copy_(state["extra"][name])
        for name, parameter in parameters.items():
            parameter.copy_(state["weights"][name])
    optimizer.load_state_dict(state["optimizer"])


def trained(policy: Policy) -> dict[str, torch.nn.Parameter]:
    """The parameters that change, by name."""
    return {name: p for name, p in policy.model.named_parameters() if p.requires_grad}


def state_directory(root: Path, step: int) -> Path:
    return root / f"step-{step:06d}"


def saved_steps(root: Path) -> list[int]:
    """Steps of the states under `root`, ascending."""
    return sorted(step_of(path) for path in root.glob("step-[0-9]*") if path.is_dir())


def step_of(directory: Path) -> int:
    return int(directory.name.removeprefix("step-"))


def warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)
