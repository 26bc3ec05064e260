"""Three ranks whose shares of a step differ, or are empty, exchange the same things in the same
order; ranks that do not are told apart.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from vibelite.ranks.launch import run_ranks

pytestmark = pytest.mark.slow
MISMATCHED = """
import torch
import vibelite.ranks.watchdog as watchdog
from vibelite.ranks.join import joined_world
watchdog.SECONDS_PER_BEAT = 0.1
with joined_world(timeout_seconds=60) as world:
    world.barrier("the first thing")
    if world.rank == 1:
        world.norm(torch.ones(()))
    else:
        world.barrier("the second thing")
"""


FAILING = """
from vibelite.ranks.join import joined_world
with joined_world(timeout_seconds=60) as world:
    world.watchdog.note("p-3, sample 1")
    if world.rank == 1:
        raise ValueError("bad")
    world.barrier("the other")
"""


def test_what_failed_on_another_rank_is_said_with_its_place(capfd) -> None:
    assert run_ranks(2, [sys.executable, "-c", FAILING]) == 1
    assert "rank 1, start, p-3, sample 1: ValueError: bad; the same" in capfd.readouterr().err


def test_200_steps_of_uneven_shares_train_as_one_process_does(tmp_path: Path) -> None:
    module = [sys.executable, "-m", "tests.distributed.uneven_shares", str(tmp_path / "far")]
    assert run_ranks(3, module) == 0
    for rank in range(3):
        far = json.loads((tmp_path / f"far-{rank}").read_text(encoding="utf-8"))
        assert far["moved"] > 0.01  # equal weights are no equal standstill
        assert far["whole"] < 2e-6 and far["full"] < 2e-6, far


def test_ranks_that_wait_in_different_exchanges_end_and_are_named(capfd) -> None:
    """Long before `timeout_seconds`."""
    assert run_ranks(3, [sys.executable, "-c", MISMATCHED]) != 0
    said = capfd.readouterr().err
    assert "ranks do not exchange the same things in the same order" in said
    assert "rank 1: start, waits for the norm of all ranks (exchange 2)" in said
    assert "rank 2: start, waits for the second thing (exchange 2)" in said
