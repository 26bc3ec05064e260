"""Copies between run directories of ranks that are threads here; processes are in
tests/distributed/test_nodes.py.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from tests.survival import small_disk
from vibelite.errors import CheckpointError, DiskFull, RecipeError, VibeLiteError
from vibelite.run_dir import RunDir, new_directory
from vibelite.storage import damage_of
from vibelite.training import node_files
from vibelite.training.node_files import (
    find_disks,
    joined_directories,
    on_every_rank,
    spread,
    spread_parts,
)
from vibelite.training.parallel import World


class Ranks:
    """What threads tell each other."""

    def __init__(self, num_ranks: int) -> None:
        self.barrier = threading.Barrier(num_ranks, timeout=20)
        self.box: list[Any] = [None] * num_ranks
        self.chunks = [Queue() for _ in range(num_ranks)]
        self.sent: list[int] = []


class ThreadWorld(World):
    """A world whose ranks are threads of this process."""

    def __init__(self, rank: int, ranks: Ranks, disks: list[int]) -> None:
        num_ranks = len(ranks.box)
        super().__init__(rank, num_ranks, num_nodes=num_ranks, disks=disks)
        self.ranks = ranks

    def set_disks(self, disks: list[int]) -> None:
        self.disks = disks

    def gather(self, value: Any) -> list[Any]:
        self.ranks.box[self.rank] = pickle.dumps(value)
        self.ranks.barrier.wait()
        values = [pickle.loads(data) for data in self.ranks.box]
        self.ranks.barrier.wait()
        return values

    def _send(self, message: Any) -> Any:
        return self.gather(message)[0]

    def barrier(self, what: str) -> None:
        self.gather(None)

    def send_bytes(self, chunk: bytearray | memoryview, source: int) -> None:
        if self.rank == source:
            self.ranks.sent.append(len(chunk))
            for other in self.disks:
                self.ranks.chunks[other].put(bytes(chunk))
        chunk[:] = self.ranks.chunks[self.rank].get(timeout=20)


def on_ranks(num: int, work: Callable[[ThreadWorld], Any], disks: list[int]) -> list[Any]:
    """What `work` returns, or the VibeLiteError that it raises, by rank; last, the bytes sent."""
    ranks = Ranks(num)

    def one(rank: int) -> Any:
        try:
            return work(ThreadWorld(rank, ranks, disks))
        except VibeLiteError as error:
            return error
        except BaseException:
            ranks.barrier.abort()
            raise

    with ThreadPoolExecutor(num) as pool:
        return [*pool.map(one, range(num)), sum(ranks.sent)]


def write_model(path: Path, weights: bytes) -> None:
    with new_directory(path) as temporary:
        (temporary / "weights").write_bytes(weights)
        (temporary / "deeper").mkdir()
        (temporary / "deeper" / ".config").write_text("{}")


def stage_of(tmp_path: Path, rank: int) -> Path:
    return tmp_path / str(rank) / "stages" / "00-sft"


def spread_stage(tmp_path: Path, num: int = 2, disks: list[int] | None = None) -> list[Any]:
    def work(world: ThreadWorld) -> None:
        spread(world, tmp_path / str(world.rank), "stages")

    return on_ranks(num, work, disks or [0, 1])


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_files, "CHUNK_BYTES", 7)


def test_only_what_differs_is_sent_and_arrives_whole(tmp_path: Path, small_chunks: None) -> None:
    leader, other = stage_of(tmp_path, 0), stage_of(tmp_path, 1)
    write_model(leader / "checkpoints" / "step-1", b"first weights")
    (leader / "status.json").write_text("done")
    (leader / "empty").touch()
    (leader / "samples.jsonl").write_text("the leader's")
    assert spread_stage(tmp_path) == [None, None, len("first weights") + len("{}") + len("done")]
    assert (other / "checkpoints/step-1/weights").read_bytes() == b"first weights"
    assert not damage_of(other / "checkpoints" / "step-1")
    assert (other / "empty").exists() and not (other / "samples.jsonl").exists()
    write_model(leader / "checkpoints" / "step-2", b"second")
    (other / "status.json").write_text("made")  # of the same length
    assert spread_stage(tmp_path)[-1] == len("second") + len("{}") + len("done")
    assert (other / "status.json").read_text() == "done"
    assert spread_stage(tmp_path) == [None, None, 0]
    assert not list(tmp_path.rglob(".incoming"))


def test_what_a_killed_process_left_is_neither_used_nor_kept(tmp_path: Path) -> None:
    write_model(stage_of(tmp_path, 0) / "checkpoints" / "step-1", b"weights")
    model = stage_of(tmp_path, 1) / "checkpoints" / "step-1"
    write_model(model, b"weights")
    (model / "weights").write_bytes(b"wei")
    half = tmp_path / "1" / ".incoming" / "stages" / "00-sft" / "checkpoints" / "step-1"
    half.mkdir(parents=True)
    (half / "weights").write_bytes(b"half of")
    spread_stage(tmp_path)
    assert (model / "weights").read_bytes() == b"weights"
    assert not damage_of(model)
    assert not list(tmp_path.rglob(".incoming"))


def test_every_disk_gets_the_parts_of_all(tmp_path: Path, small_chunks: None) -> None:
    def work(world: ThreadWorld) -> None:
        directory = tmp_path / str(world.rank // 2)  # ranks 0 and 1 see one, 2 and 3 another
        directory.mkdir(exist_ok=True)
        (directory / f"part-{world.rank}").write_text("x" * (10 + world.rank))
        world.barrier("parts")
        spread_parts(world, directory)

    assert on_ranks(4, work, disks=[0, 2])[-1] == 10 + 11 + 12 + 13
    for disk in "01":
        parts = {path.name: path.read_text() for path in (tmp_path / disk).iterdir()}
        assert parts == {f"part-{rank}": "x" * (10 + rank) for rank in range(4)}


def test_damage_on_the_leaders_disk_is_said_by_all_and_replaces_nothing(tmp_path: Path) -> None:
    for rank, weights in enumerate([b"weights", b"earlier"]):
        write_model(stage_of(tmp_path, rank) / "checkpoints" / "step-1", weights)
    damaged = stage_of(tmp_path, 0) / "checkpoints" / "step-1" / "weights"
    damaged.write_bytes(b"Weights")
    *errors, _ = spread_stage(tmp_path)
    for error in errors:
        assert isinstance(error, CheckpointError) and "damaged on the leader's disk" in str(error)
    kept = stage_of(tmp_path, 1) / "checkpoints" / "step-1"
    assert (kept / "weights").read_bytes() == b"earlier" and not damage_of(kept)
    damaged.unlink()
    *errors, num_bytes = spread_stage(tmp_path)
    assert num_bytes == 0
    assert [str(error).startswith(f"{damaged}: is missing") for error in errors] == [True, True]


@pytest.mark.parametrize("when", ["before anything is sent", "while it is written"])
def test_a_full_disk_of_another_node_is_the_leaders_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    write_model(stage_of(tmp_path, 0) / "checkpoints" / "step-1", b"x" * 2_000_000)
    if when == "while it is written":
        monkeypatch.setattr(node_files, "require_free", lambda *_, **__: None)
        monkeypatch.setattr(node_files, "CHUNK_BYTES", 300_000)
    with small_disk(tmp_path / "1", 2**20) as disk:
        leaders, others, num_bytes = spread_stage(tmp_path)
        assert (num_bytes > 0) == (when == "while it is written")
        assert not list(disk.rglob("*"))
    for error in (leaders, others):
        assert isinstance(error, DiskFull)
        assert str(error).startswith("rank 1 on ") and str(tmp_path / "1") in str(error)
    assert not leaders.is_leaders and others.is_leaders  # printed once, by the leader


def test_ranks_that_see_one_directory_are_one_disk(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / ".seen-by-a-killed-one-0").touch()

    def work(world: ThreadWorld) -> list[int]:
        return find_disks(world, tmp_path / "abba"[world.rank])

    assert on_ranks(4, work, disks=[0])[:-1] == [[0, 1]] * 4
    assert not list(tmp_path.glob("*/*"))


def join_two(runs: list[RunDir]) -> list[Any]:
    def work(world: ThreadWorld) -> list[int]:
        with joined_directories(world, runs[world.rank]):
            return world.disks

    return on_ranks(2, work, disks=[0])[:-1]


def test_a_directory_with_another_run_is_left_alone(tmp_path: Path) -> None:
    first, second, third = runs = [RunDir(tmp_path / name) for name in "abc"]
    for run in runs[:2]:
        run.ledger_path.mkdir(parents=True)
        (run.ledger_path / f"0001-{run.path.name}.jsonl").touch()
    first.base_model.mkdir()
    assert join_two([first, third]) == [[0, 1], [0, 1]]
    third.base_model.mkdir()
    assert join_two([first, third]) == [[0, 1], [0, 1]]
    for error in join_two([second, third]):
        assert isinstance(error, RecipeError)
        assert f"{third.path}: holds another run" in str(error)
    for error in join_two([third, first]):
        assert isinstance(error, RecipeError)
        assert f"{third.path}: holds copies of a run" in str(error)
    third.follows_path.unlink()
    assert "holds another run" in str(join_two([first, third])[0])


def test_an_error_of_any_rank_is_raised_on_all_and_says_where(tmp_path: Path) -> None:
    def work(world: ThreadWorld) -> None:
        def fail() -> None:
            if world.rank:
                raise RecipeError(f"wrong on {world.rank}")

        on_every_rank(world, fail)

    errors = on_ranks(3, work, disks=[0])[:-1]
    assert all(isinstance(error, RecipeError) for error in errors)
    assert all(str(error).startswith("rank 1 on ") for error in errors)
