"""Run directories that nodes do not share: what one node wrote, the others get.

Every directory has one rank that writes it (`World.disks`). The leader's is the run: the others
hold copies of all that ranks read (models, training states, data, the stages' results) and, at
every saved state, all that is needed to go on. Its ledger, its report and the records of steps and
samples are not copied: nobody else reads them. Where all ranks see one directory nothing is sent.

Copies are compared by their checksums, arrive in `.incoming`, and are renamed once they are whole.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import socket
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vibelite.errors import CheckpointError, RecipeError, VibeLiteError
from vibelite.run_dir import RunDir, drop_directory, move_directory, read_json, write_json_atomic
from vibelite.run_lock import locked
from vibelite.storage import (
    CHECKSUMS_NAME,
    checksums_in,
    files_under,
    require_free,
    require_writable,
    seal_directory,
    sha256_of,
    storage_errors,
    sync_file,
)

if TYPE_CHECKING:  # the ledger begins before torch is imported
    from vibelite.training.parallel import World

T = TypeVar("T")
HOW_TO_LEAD = "torchrun --master-addr and --node-rank 0; --rdzv-backend c10d goes by address"
CHUNK_BYTES = 16 * 2**20
INCOMING = ".incoming"
# In the directory of a stage: the leader's alone, or sent when it is resumed from.
NOT_COPIED = ("resume", "steps.jsonl", "samples.jsonl")


@dataclass(frozen=True, slots=True)
class Item:
    """A file, or a sealed directory, which is sent as a whole."""

    identity: str
    files: dict[str, int]
    """Bytes by path under the root of the listing; -1 = missing."""


@dataclass(frozen=True, slots=True)
class SentFile:
    """A file that rank `source` has."""

    name: str
    num_bytes: int
    source: int


@contextmanager
def joined_directories(world: World, run: RunDir) -> Iterator[None]:
    """Finds out which ranks see one run directory, and holds the locks of those that hold copies.

    RecipeError, on all ranks, where the leader's directory holds copies itself, or another one
    cannot be written or holds something else.
    """
    world.from_leader(partial(require_no_copies, run))
    if world.num_nodes == 1:
        yield
        return
    world.set_disks(find_disks(world, run.path))
    leader = world.from_leader(lambda: describe_leader(run))
    with ExitStack() as held:

        def follow() -> None:
            if world.is_leader:
                return
            held.enter_context(locked(run.path))
            require_copies(run, leader)
            write_json_atomic(run.follows_path, leader)

        on_every_disk(world, follow)
        yield


def find_disks(world: World, directory: Path) -> list[int]:
    """The lowest rank of those that see one directory under `directory`, for each such directory;
    ascending.
    """
    word = world.from_leader(lambda: secrets.token_hex(8))
    names = [f".seen-by-{word}-{rank}" for rank in range(world.num_ranks)]

    def leave_name() -> None:
        require_writable(directory)
        with storage_errors(directory):
            for path in directory.glob(".seen-by-*"):
                if path.name not in names:  # of a killed process
                    path.unlink(missing_ok=True)
            (directory / names[world.rank]).touch()

    on_every_rank(world, leave_name)
    # By name: a network's file system may list a directory as it was a while ago.
    found = (rank for rank, name in enumerate(names) if (directory / name).exists())
    disks = world.gather(next(found))
    (directory / names[world.rank]).unlink()
    return sorted(set(disks))


def describe_leader(run: RunDir) -> dict[str, str]:
    """Who leads, and the run's first ledger file, which no other run has."""
    first = min(path.name for path in run.ledger_path.glob("*.jsonl"))
    return {"leader": socket.gethostname(), "run": first}


def require_no_copies(run: RunDir) -> None:
    """RecipeError where another node leads the run that is in the leader's directory."""
    if run.follows_path.exists():
        leader = read_json(run.follows_path)["leader"]
        raise RecipeError(
            f"{run.path}: holds copies of a run that {leader} leads, whose ledger and records are "
            f"there alone: start that node as the first ({HOW_TO_LEAD}). If it is lost, remove "
            f"{run.follows_path}: the run goes on from the last state that was saved, but "
            "what was spent before no longer counts for its budget and is not in its report"
        )


def require_copies(run: RunDir, leader: dict[str, str]) -> None:
    """RecipeError unless the directory of a node that follows is new or holds copies of the run."""
    if not run.base_model.exists():
        return
    known = read_json(run.follows_path)["run"] if run.follows_path.exists() else None
    if known != leader["run"]:
        raise RecipeError(
            f"{run.path}: holds another run than that of {leader['leader']}, which leads; move it "
            "away to get copies of that run, or, to go on with this one, start this node as the "
            f"first ({HOW_TO_LEAD})"
        )


def on_every_rank(world: World, work: Callable[[], T]) -> list[T]:
    """What `work` returns, by rank, on every rank; or on all the VibeLiteError of the first rank on
    which it failed, with where that was.
    """
    value, error = None, None
    try:
        value = work()
    except VibeLiteError as raised:
        error = raised
        if not world.is_leader:
            error = type(raised)(f"rank {world.rank} on {socket.gethostname()}: {raised}")
    answers: list[tuple[Any, Any]] = world.gather((value, error))
    for _, failure in answers:
        if failure is not None:
            failure.is_leaders = not world.is_leader  # who prints it
            raise failure
    return [value for value, _ in answers]


def on_every_disk(world: World, work: Callable[[], T]) -> list[T | None]:
    """`on_every_rank` for the ranks that write a run directory; None of the others."""
    return on_every_rank(world, lambda: work() if world.keeps_files else None)


@contextmanager
def leader_first(world: World, root: Path, name: str) -> Iterator[None]:
    """The leader does what is inside, then the others, who find `name` under `root` as it left it.
    Called by all ranks, or by the leader where it is by itself.
    """
    if not world.is_leader:
        spread(world, root, name)
    yield
    if world.is_leader:
        spread(world, root, name)


def spread(world: World, root: Path, *names: str) -> None:
    """What the leader holds of `names` (files, or directories with all in them) under its `root`,
    every other run directory holds under its own when this returns. Called by all ranks.

    DiskFull where it does not fit, CheckpointError where something is not what its checksums say.
    """
    if not world.sends_files:
        world.barrier("what the leader wrote")
        return
    offered = world.from_leader(lambda: whole_listing(root, names))
    incoming = root / INCOMING

    def ask() -> list[str]:
        with storage_errors(root):
            drop_directory(incoming)
            if world.is_leader:
                return []
            held = listing(root, names)
            wanted = [key for key, item in offered.items() if held.get(key) != item]
            sizes = [size for key in wanted for size in offered[key].files.values()]
            require_free(root, sum(sizes), margin_bytes=0, what="copies of the leader's files")
            return wanted

    def place() -> None:
        with storage_errors(root):
            for key in wanted:
                place_item(incoming, root, key, offered[key])

    try:
        asked = on_every_disk(world, ask)
        wanted = asked[world.rank] or []
        keys = [key for key in offered if any(key in (other or ()) for other in asked)]
        files = [SentFile(n, size, 0) for key in keys for n, size in offered[key].files.items()]
        mine = {name for key in wanted for name in offered[key].files}
        exchange(world, files, root if world.is_leader else incoming, mine)
        on_every_disk(world, place)
    finally:
        if world.keeps_files:
            shutil.rmtree(incoming, ignore_errors=True)  # the first error is the one to report


def spread_parts(world: World, directory: Path) -> None:
    """Every `directory` holds what any of them does when this returns. Called by all ranks."""
    if not world.sends_files:
        return

    def sizes() -> dict[str, int]:
        return {str(p.relative_to(directory)): p.stat().st_size for p in files_under(directory)}

    held = [part or {} for part in on_every_disk(world, sizes)]
    files = [SentFile(n, size, rank) for rank, part in enumerate(held) for n, size in part.items()]
    assert len({file.name for file in files}) == len(files), "ranks write files of their own"
    exchange(world, files, directory, {file.name for file in files} - held[world.rank].keys())


def exchange(world: World, files: Sequence[SentFile], root: Path, wanted: Collection[str]) -> None:
    """Copies files between the directories `root`; those `wanted` are written. Called by all ranks.

    StorageError on all of them where one disk refuses: only at the end, as others wait for every
    chunk.
    """
    attempt = Attempt()
    if world.keeps_files:
        buffer = memoryview(bytearray(CHUNK_BYTES))
        for file in files:
            path = root / file.name
            is_wanted = file.name in wanted
            if is_wanted:
                attempt.do(create, path)
            for start in range(0, file.num_bytes, CHUNK_BYTES):
                chunk = buffer[: min(CHUNK_BYTES, file.num_bytes - start)]
                if world.rank == file.source:
                    attempt.do(read_chunk, path, start, chunk)
                world.send_bytes(chunk, file.source)
                if is_wanted:
                    attempt.do(append_chunk, path, chunk)
    on_every_rank(world, partial(attempt.finish, root))


@dataclass(slots=True)
class Attempt:
    """Work in parts, of which none is done after one that failed."""

    error: OSError | None = None

    def do(self, work: Callable[..., None], *arguments: Any) -> None:
        if self.error is None:
            try:
                work(*arguments)
            except OSError as error:
                self.error = error

    def finish(self, path: Path) -> None:
        """Raises what failed, as an error of the disk under `path`."""
        with storage_errors(path):
            if self.error is not None:
                raise self.error


def create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def read_chunk(path: Path, start: int, chunk: memoryview) -> None:
    with open(path, "rb") as file:
        file.seek(start)
        if file.readinto(chunk) != len(chunk):
            raise OSError(errno.EIO, "became shorter while it was read", str(path))


def append_chunk(path: Path, chunk: memoryview) -> None:
    with open(path, "ab") as file:
        file.write(chunk)


def listing(root: Path, names: Sequence[str]) -> dict[str, Item]:
    """What is under `root` of `names`, by path."""
    paths = [path for name in names for path in items_under(root / name)]
    return {str(path.relative_to(root)): item_of(path, root) for path in paths}


def whole_listing(root: Path, names: Sequence[str]) -> dict[str, Item]:
    """`listing`; CheckpointError where a file of a sealed directory is missing."""
    items = listing(root, names)
    for item in items.values():
        for name, num_bytes in item.files.items():
            if num_bytes < 0:
                raise CheckpointError(
                    f"{root / name}: is missing; restore it from a copy, or remove its directory "
                    "and that of its stage and run the same command, which makes it again"
                )
    return items


def items_under(path: Path) -> Iterator[Path]:
    """Files and sealed directories in a directory, or itself, if it is one."""
    if path.is_file() or (path / CHECKSUMS_NAME).exists():
        yield path
    elif path.is_dir():
        for child in sorted(path.iterdir()):
            if child.name not in NOT_COPIED and not child.name.startswith("."):
                yield from items_under(child)


def item_of(path: Path, root: Path) -> Item:
    """A sealed directory is known by its checksums and the sizes of its files: its bytes are read
    by whoever loads it.
    """
    if path.is_file():
        return Item(sha256_of(path), {str(path.relative_to(root)): path.stat().st_size})
    try:
        checksums = checksums_in(path)
    except (OSError, ValueError):
        return Item("", {str((path / CHECKSUMS_NAME).relative_to(root)): -1})
    files = {
        str(file.relative_to(root)): file.stat().st_size if file.is_file() else -1
        for file in (path / name for name in checksums)
    }
    return Item(sha256(repr(sorted(checksums.items())).encode()).hexdigest(), files)


def place_item(incoming: Path, root: Path, key: str, item: Item) -> None:
    """Moves what arrived to its place; CheckpointError if it is not what was offered."""
    source, target = incoming / key, root / key
    if source.is_dir():
        seal_directory(source)
    else:
        sync_file(source)
    if item_of(source, incoming) != item:
        raise CheckpointError(
            f"{target}: arrived with other bytes than its checksums say, so it is damaged on the "
            "leader's disk; restore it there from a copy, or remove it with the directory of its "
            "stage and run the same command, which makes it again"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        move_directory(source, target)
    else:
        os.replace(source, target)
        sync_file(target.parent)
