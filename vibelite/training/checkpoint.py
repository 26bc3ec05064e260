"""Models, and resumable training states: weights and optimizer at a step. Learning rate, random
numbers and data order are functions of the seed and the step; what a probe found is in its stage.

Both are directories that appear under their final name, with checksums, only when they are complete
and on the disk; a process killed at any moment leaves the one before. The newest whole state is
resumed from.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from vibelite.errors import CheckpointError
from vibelite.models.adapter import save_adapter
from vibelite.models.policy import Policy
from vibelite.ranks.ranks import ONE_RANK, Ranks
from vibelite.ranks.states import State, fill_state, load_whole, save_state
from vibelite.recipe.run_section import Checkpoint
from vibelite.run_dir import StageDir, drop_directory, new_directory
from vibelite.storage import damage_of, free_bytes, require_free, storage_errors
from vibelite.training.checkpoint_interval import SaveSchedule
from vibelite.training.optim import PolicyOptimizer

GIB = 2**30
# Headers and names beside the tensors; a tokenizer beside a model is within the recipe's margin.
HEADER_BYTES = 2**20
# What DCP writes with each tensor at least: a zip archive of one entry, and its row of .metadata.
TENSOR_HEADER_BYTES = 1600
NO_SETTINGS = Checkpoint()


class TrainingStates:
    """The states of one training stage: when one is saved, and which one it resumes from."""

    def __init__(
        self,
        stage_dir: StageDir,
        policy: Policy,
        optimizer: PolicyOptimizer,
        *,
        settings: Checkpoint,
        schedule: SaveSchedule,
        world: Ranks = ONE_RANK,
    ) -> None:
        """`world`: the ranks that save and resume together."""
        self._world = world
        self._stage_dir = stage_dir
        self._policy = policy
        self._optimizer = optimizer
        self._settings = settings
        self._schedule = schedule

    def load(self) -> int:
        """Loads the newest whole state in place and drops the records of later steps; the number
        of finished steps, 0 if none was saved.
        """
        resume = self._stage_dir.resume
        if self._world.is_leader:
            for path in self._stage_dir.checkpoints.glob(".*.tmp"):  # of a killed process
                drop_directory(path)
        step = load_training_state(resume, self._policy, self._optimizer, world=self._world)
        if not self._world.is_leader:
            return step
        num_recorded = self._stage_dir.truncate_after(step)
        if num_recorded and not step:
            warn(
                f"{self._stage_dir.resume}: holds no saved state, though {num_recorded} steps were "
                "recorded: the stage starts again from its first step"
            )
        return step

    def is_due(self, step: int) -> bool:
        """Whether to save after `step` finished steps."""
        return self._world.from_leader(lambda: self._schedule.is_due(step))

    def save(self, step: int) -> None:
        """Saves the state after `step` finished steps; the records of those steps are on disk
        before it is.
        """
        start = time.monotonic()
        if self._world.is_leader:
            self._stage_dir.sync_records()
        save_training_state(
            self._stage_dir.resume, step, self._policy, self._optimizer,
            settings=self._settings, world=self._world,
        )  # fmt: skip
        self._schedule.saved(time.monotonic() - start)


def save_model(policy: Policy, directory: Path, *, settings: Checkpoint = NO_SETTINGS) -> None:
    """Writes the policy as a Hugging Face directory, or its adapter alone, whole or not at all.
    DiskFull, with nothing written, where it does not fit.
    """
    require_free(
        directory,
        sum(parameter.nbytes for parameter in policy.trainable_parameters()) + HEADER_BYTES,
        margin_bytes=int(settings.free_gib * GIB),
        what="a model",
    )
    with storage_errors(directory), new_directory(directory) as temporary:
        if policy.adapter is not None:
            save_adapter(policy, temporary)
        else:
            policy.save(temporary)


def save_training_state(
    root: Path,
    step: int,
    policy: Policy,
    optimizer: PolicyOptimizer,
    *,
    settings: Checkpoint = NO_SETTINGS,
    world: Ranks = ONE_RANK,
) -> None:
    """Saves the state after `step` finished steps under `root`, then removes what it supersedes.

    Where it does not fit, superseded states go first, never the newest whole one; where even that
    is not enough, DiskFull with nothing written. Called by all ranks of `world`.
    """
    optimizer.finish()
    # Trainable parameters once each: a tied head is its embedding.
    weights = {name: parameter.detach() for name, parameter in trained(policy).items()}
    state: State = {"weights": weights, "optimizer": optimizer.state_dict()}
    sizes = [tensor.nbytes + TENSOR_HEADER_BYTES for tensor in tensors_in(state)]
    num_bytes = sum(sizes) + HEADER_BYTES
    margin_bytes = int(settings.free_gib * GIB)

    def require_room() -> None:
        make_room(root, num_bytes + margin_bytes)
        require_free(root, num_bytes, margin_bytes=margin_bytes, what="a training state")

    world.from_leader(require_room)
    save_state(state_directory(root, step), state, world)
    if world.is_leader:
        drop_superseded(root, step, settings)


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
    last = newest_whole(root)
    for step in saved_steps(root):
        if free_bytes(root) >= num_bytes:
            return
        if step != last:
            drop_directory(state_directory(root, step))


def newest_whole(root: Path) -> int | None:
    """The last step whose state has all its bytes; None if there is none."""
    for step in reversed(saved_steps(root)):
        if not damage_of(state_directory(root, step)):
            return step
    return None


def load_training_state(
    root: Path, policy: Policy, optimizer: PolicyOptimizer, *, world: Ranks = ONE_RANK
) -> int:
    """Loads the newest whole state under `root` in place; the number of finished steps, 0 if none
    was saved. Called by all ranks of `world`.
    """
    step = world.from_leader(lambda: step_to_resume(root))
    if step:
        restore(state_directory(root, step), policy, optimizer, world)
    return step


def step_to_resume(root: Path) -> int:
    """The step of the newest whole state under `root`; 0 if none was saved.

    A damaged one is skipped with a warning that names the file. CheckpointError if all are damaged:
    starting over is for the user to decide.
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


def restore(directory: Path, policy: Policy, optimizer: PolicyOptimizer, world: Ranks) -> None:
    """Loads a whole state in place; CheckpointError if it is that of another model or optimizer."""
    parameters = trained(policy)
    if world.is_one:
        # On the host: the optimizer knows which of its state belongs on the device.
        state = load_whole(directory)
    else:
        weights = {name: torch.empty_like(parameter) for name, parameter in parameters.items()}
        state = {"weights": weights, "optimizer": optimizer.state_dict()}
        fill_state(directory, state, world)
    saved = {name: weight.shape for name, weight in state["weights"].items()}
    if saved != {name: parameter.shape for name, parameter in parameters.items()}:
        raise CheckpointError(
            f"{directory}: belongs to another model; remove it or use another run directory"
        )
    with torch.no_grad():
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
    return sorted(
        int(path.name.removeprefix("step-")) for path in root.glob("step-[0-9]*") if path.is_dir()
    )


def tensors_in(state: State) -> Iterator[torch.Tensor]:
    """All tensors in nested dictionaries."""
    for value in state.values():
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, dict):
            yield from tensors_in(value)


def warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)
