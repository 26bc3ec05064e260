"""A training state on the disk, for tests that go on from one."""

from pathlib import Path

from vibelite.models.policy import Policy
from vibelite.ranks.ranks import ONE_RANK, Ranks
from vibelite.ranks.states import StateWriter
from vibelite.recipe.run_section import Checkpoint
from vibelite.training.checkpoint import start_saving, state_directory, state_of
from vibelite.training.optim import PolicyOptimizer


def save_training_state(
    root: Path,
    step: int,
    policy: Policy,
    optimizer: PolicyOptimizer,
    *,
    settings: Checkpoint | None = None,
    world: Ranks = ONE_RANK,
) -> None:
    """As `start_saving`, and returns when the state is on the disk."""
    writer, directory = StateWriter(world), state_directory(root, step)
    state = state_of(policy, optimizer, {})
    start_saving(writer, directory, state, settings or Checkpoint(), lambda: None)
    writer.wait()
