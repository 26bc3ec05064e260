"""States that all ranks write and read together, by torch's distributed checkpoints: nested
dictionaries of tensors, of which each rank writes its rows. Whatever number of ranks wrote one, and
however they held the weights, any other number reads it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from vibelite.errors import CheckpointError
from vibelite.ranks.ranks import ONE_RANK, Ranks
from vibelite.ranks.world import World
from vibelite.run_dir import new_directory
from vibelite.storage import storage_errors

State = dict[str, Any]


def save_state(directory: Path, state: State, world: Ranks) -> None:
    """Writes `directory` whole or not at all; called by all ranks. Of what all ranks hold alike one
    writes each tensor.
    """
    temporary = directory.with_name(f".{directory.name}.tmp")
    made = new_directory(directory) if world.is_leader else nullcontext()
    with storage_errors(directory.parent), made:
        world.barrier("the checkpoint's directory")
        with first_failure(world, "the checkpoint's parts") as group:
            save(state, checkpoint_id=temporary, process_group=group, no_dist=world.is_one)


def fill_state(directory: Path, state: State, world: Ranks) -> None:
    """Fills the tensors of `state`, each rank's rows or whole ones, in place; called by all ranks.

    CheckpointError where the saved state has not all of them.
    """
    with readable(directory), first_failure(world, "the checkpoint's parts") as group:
        load(state, checkpoint_id=directory, process_group=group, no_dist=world.is_one)


def load_whole(directory: Path) -> State:
    """The whole state, on the host of this process alone; dictionaries that were empty are left
    out.
    """
    with readable(directory), first_failure(ONE_RANK, ""):
        saved = FileSystemReader(directory).read_metadata()
        values: State = {
            name: torch.empty(entry.size, dtype=entry.properties.dtype)
            if isinstance(entry, TensorStorageMetadata)
            else None
            for name, entry in saved.state_dict_metadata.items()
        }
        load(values, checkpoint_id=directory, no_dist=True)
    state: State = {}
    for name, path in saved.planner_data.items():
        *outer, last = [int(key) if str(key).isdigit() else key for key in path]  # DCP's are text
        place: dict[Any, Any] = state
        for key in outer:
            place = place.setdefault(key, {})
        place[last] = values[name]
    return state


@contextmanager
def readable(directory: Path) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise CheckpointError(
            f"{directory}: cannot be read ({error}); it belongs to another model, optimizer or "
            "version: remove it or use another run directory"
        ) from error


@contextmanager
def first_failure(world: Ranks, what: str) -> Iterator[Any]:
    """Around a call of DCP, the group of whose ranks it gives: raises what failed on the first rank
    on which it failed, instead of its collection.
    """
    try:
        if isinstance(world, World):
            with world.exchanging(what):
                yield world.objects
        else:
            with warnings.catch_warnings():  # of a process by itself DCP supposes a mistake
                warnings.simplefilter("ignore", UserWarning)
                yield None
    except CheckpointException as collected:
        error, _ = collected.failures[min(collected.failures)]
        raise error from collected
