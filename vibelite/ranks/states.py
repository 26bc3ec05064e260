"""States that all ranks write and read together, by torch's distributed checkpoints (DCP): nested
dictionaries of tensors, of which each rank writes its rows. Whatever number of ranks wrote one, and
however they held the weights, any other number reads it.

They are written beside the training, from a snapshot in host memory; a file's SHA-256 is taken of
the bytes on their way to it.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult

from vibelite.errors import CheckpointError
from vibelite.ranks.ranks import Ranks
from vibelite.ranks.world import World
from vibelite.run_dir import begin_directory, dropped_on_failure, replace_directory, temporary_of
from vibelite.storage import HASH_THREADS, storage_errors

State = dict[str, Any]
# Of a process by itself DCP supposes a mistake.
warnings.filterwarnings("ignore", message="torch.distributed is disabled", category=UserWarning)


class Background:
    """One piece of work at a time beside the program's own."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "background")
        self._work: Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begins `work` once the one before has ended, whose error it raises."""
        self.wait()
        self._work = self._thread.submit(work)

    def wait(self) -> None:
        """Returns when nothing is being done; raises what went wrong, once."""
        work, self._work = self._work, None
        if work is not None:
            work.result()

    def raise_failure(self) -> None:
        """Raises what has gone wrong so far."""
        if self._work is not None and self._work.done():
            self.wait()

    def pending(self) -> Callable[[], None]:
        """For another thread: returns when what is being done now is done, or raises its error."""
        work = self._work
        return lambda: None if work is None else work.result()

    def settle(self) -> None:
        """Returns when nothing is being done, whatever came of it."""
        if self._work is not None:
            wait([self._work])


def host_stager() -> DefaultStager:
    """Copies states to the host, from a GPU into pinned memory, which it keeps for the next."""
    has_gpu = torch.cuda.is_available()
    return DefaultStager(StagingOptions(has_gpu, False, False, has_gpu))


class StateWriter(Background):
    """Writes the states of one stage, one at a time; called by all ranks."""

    def __init__(self, world: Ranks) -> None:
        super().__init__()
        self.world = world
        self._stager = host_stager()

    def save(
        self,
        directory: Path,
        state: State,
        *,
        first: Callable[[], None],
        then: Callable[[], None],
    ) -> None:
        """Copies `state`, which may change afterwards, and starts to write `directory`, whole or
        not at all. The leader does `first` before it has its name and `then` after. The one before
        is waited for.
        """
        self.wait()
        self.world.from_leader(partial(begin, directory))
        snapshot = self._stager.stage(state)
        self.start(partial(self._write, directory, snapshot, first, then))

    def wait(self) -> None:
        """As promised, on all ranks alike."""
        self.settle()
        self.world.from_leader(super().wait)
        super().wait()

    def _write(
        self, directory: Path, snapshot: Any, first: Callable[[], None], then: Callable[[], None]
    ) -> None:
        world, temporary = self.world, temporary_of(directory)
        writer = HashingWriter(temporary)
        group = world.states if isinstance(world, World) else None
        dropped = dropped_on_failure(temporary) if world.is_leader else nullcontext()
        with storage_errors(directory.parent), dropped:
            with first_failure():
                save(snapshot, storage_writer=writer, process_group=group, no_dist=world.is_one)
            hashes = self._of_all(writer.fs.hashes)
            if world.is_leader:
                first()
                replace_directory(temporary, directory, hashes)
                then()

    def _of_all(self, hashes: dict[str, str]) -> dict[str, str]:
        """Every rank's, on the leader."""
        world = self.world
        if not isinstance(world, World):
            return hashes
        parts: list[Any] = [{}] * world.num_ranks
        dist.gather_object(hashes, parts if world.is_leader else None, group=world.states)
        return {name: digest for part in parts for name, digest in part.items()}


def begin(directory: Path) -> None:
    with storage_errors(directory.parent):
        begin_directory(directory)


class HashingFiles(FileSystem):
    """Takes the SHA-256 of every file that is written, by name."""

    def __init__(self) -> None:
        self.hashes: dict[str, str] = {}

    @contextmanager
    def create_stream(self, path: Any, mode: str) -> Iterator[io.IOBase]:
        with super().create_stream(path, mode) as file:
            hashed = HashedFile(file)
            yield hashed
        self.hashes[Path(path).name] = hashed.sha256.hexdigest()

    def rename(self, path: Any, new_path: Any) -> None:
        super().rename(path, new_path)
        self.hashes[Path(new_path).name] = self.hashes.pop(Path(path).name)


class HashedFile(io.RawIOBase):
    """A file that is written from its beginning to its end, and the hash of that."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def fileno(self) -> int:
        return self._file.fileno()

    def flush(self) -> None:
        if not self._file.closed:
            self._file.flush()


class HashingWriter(FileSystemWriter):
    """Several files of each rank, a thread each. (DCP's own threads lose errors.)"""

    fs: HashingFiles

    def __init__(self, path: Path) -> None:
        super().__init__(path, per_thread_copy_ahead=0)
        self.fs = HashingFiles()

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Any:
        parts = [
            replace(plan, items=items, storage_data=replace(plan.storage_data, prefix=prefix))
            for number, items in enumerate(evenly(plan.items, HASH_THREADS))
            for prefix in [f"{plan.storage_data.prefix}{number}_"]
        ]
        write = super().write_data
        with ThreadPoolExecutor(HASH_THREADS) as pool:
            results = list(pool.map(lambda part: write(part, planner).wait(), parts))
        done: torch.futures.Future[list[WriteResult]] = torch.futures.Future()
        done.set_result([result for part in results for result in part])
        return done


def evenly(items: list[WriteItem], num_parts: int) -> list[list[WriteItem]]:
    """The items in parts of about the same bytes."""

    def num_bytes(item: WriteItem) -> int:
        data = item.tensor_data
        return 0 if data is None else data.size.numel() * data.properties.dtype.itemsize

    parts: list[list[WriteItem]] = [[] for _ in range(num_parts)]
    sizes = [0] * num_parts
    for item in sorted(items, key=num_bytes, reverse=True):
        smallest = sizes.index(min(sizes))
        parts[smallest].append(item)
        sizes[smallest] += num_bytes(item) + 1
    return [part for part in parts if part]


def fill_state(directory: Path, state: State, world: Ranks) -> None:
    """Fills the tensors of `state`, each rank's rows or whole ones, in place; called by all ranks.

    CheckpointError where the saved state has not all of them.
    """
    assert isinstance(world, World), "one process reads a state whole"
    with (
        readable(directory),
        world.exchanging("the checkpoint's parts"),
        first_failure(),
    ):
        load(state, checkpoint_id=directory, process_group=world.objects)


def load_whole(directory: Path) -> State:
    """The whole state, on the host of this process alone; dictionaries that were empty are left
    out.
    """
    with readable(directory), first_failure():
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
def first_failure() -> Iterator[None]:
    """Around a call of DCP: raises what failed on the first rank on which it failed, instead of its
    collection.
    """
    try:
        yield
    except CheckpointException as collected:
        error, _ = collected.failures[min(collected.failures)]
        raise error from collected
