"""Training states that several ranks write together, by torch's DCP: each its part of the
optimizer's state. Any number of ranks, and a single process, resume from them, however they cut the
weights themselves.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import torch

from vibelite.run_dir import new_directory
from vibelite.storage import storage_errors
from vibelite.training.node_files import spread_parts
from vibelite.training.optim import PolicyOptimizer
from vibelite.training.parallel import World, load_parts, save_parts
from vibelite.training.shared_adamw import Layout

# The directory of the parts says how they were cut.
PARTS_NAMES: dict[Layout, str] = {"flat": "parts", "rows": "parts-by-rows"}
Weights = dict[str, torch.Tensor]


def save_state_in_parts(
    directory: Path, weights: Weights, optimizer: PolicyOptimizer, world: World
) -> None:
    """Writes `directory` whole or not at all, on every disk the parts of all ranks; called by all
    ranks.
    """
    temporary = directory.with_name(f".{directory.name}.tmp")
    with (
        storage_errors(directory.parent),
        new_directory(directory) if world.keeps_files else nullcontext(),
    ):
        world.barrier("the checkpoint's directory")
        state = {"weights": weights, "optimizer": optimizer.state_dict()}
        save_parts(state, temporary / PARTS_NAMES[optimizer.layout], world)
        world.barrier("the checkpoint's parts")
        spread_parts(world, temporary)


def layout_of(directory: Path) -> Layout | None:
    """How the parts in a state's directory were cut; None if it holds whole tensors."""
    for layout, name in PARTS_NAMES.items():
        if (directory / name).is_dir():
            return layout
    return None


def load_state_in_parts(
    directory: Path, layout: Layout, weights: Weights, optimizer: PolicyOptimizer, world: World
) -> None:
    """Loads in place what any number of ranks saved; `weights` are the parameters themselves."""
    state = {
        "weights": {name: torch.empty_like(weight) for name, weight in weights.items()},
        "optimizer": optimizer.state_to_fill(layout),
    }
    load_parts(state, directory / PARTS_NAMES[layout], world)
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(state["weights"][name])
    optimizer.load_state_dict(state["optimizer"])
