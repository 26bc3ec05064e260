"""What a run's directory says of how it ended, and what its silence means."""

import json
import os
from dataclasses import replace

import pytest

from tests.telemetry.ledgers import make_entry, make_lap
from vibelite.errors import (
    BudgetReached,
    DiskFull,
    Interrupted,
    NothingLearned,
    RecipeError,
)
from vibelite.run_lock import locked
from vibelite.telemetry.ledger import Ledger
from vibelite.telemetry.run_state import (
    STATE_BYTES,
    STATE_NAME,
    read_state,
    seconds_left,
    write_end,
    write_state,
)


@pytest.mark.parametrize(
    ("error", "unfinished", "state", "code", "said"),
    [
        (None, [], "finished", 0, ""),
        (None, ["mgpo"], "stopped", 0, "before mgpo"),
        (BudgetReached("$5 are spent"), ["mgpo"], "budget", 10, "raise the limit"),
        (Interrupted("stopped by SIGTERM"), ["mgpo"], "stopped", 75, "same command goes on"),
        (NothingLearned("no signal"), ["mgpo"], "failed", 1, "no signal"),
        (DiskFull("the disk is full"), ["mgpo"], "failed", 5, "the disk is full"),
        (RecipeError("wrong"), ["mgpo"], "failed", 2, "wrong"),
        (KeyError("x"), ["mgpo"], "failed", 1, "KeyError: 'x'"),
    ],
)
def test_every_end_is_kept_with_its_reason(tmp_path, error, unfinished, state, code, said):
    write_state(tmp_path, "running")
    write_end(tmp_path, error, unfinished)
    found = read_state(tmp_path)
    assert (found.state, found.exit_code) == (state, code)
    assert said in found.message and found.utc


def test_a_run_whose_process_is_gone_was_killed_after_its_last_beat(tmp_path):
    write_state(tmp_path, "running")
    with locked(tmp_path):
        assert read_state(tmp_path).state == "running"
    Ledger(tmp_path / "ledger", None).append(make_lap(), stage="sft", step=1, what="step")
    (file,) = (tmp_path / "ledger").iterdir()
    found = read_state(tmp_path)
    assert found.state == "killed" and "goes on" in found.message
    assert found.utc == json.loads(file.read_text().splitlines()[-1])["utc"]


def test_a_killed_process_s_lock_does_not_count_as_alive(tmp_path):
    write_state(tmp_path, "running")
    child = os.fork()
    if child == 0:
        with locked(tmp_path):
            os._exit(0)  # leaves the record behind, as SIGKILL does
    os.waitpid(child, 0)
    assert (tmp_path / ".lock").read_text().strip()
    assert read_state(tmp_path).state == "killed"


def test_the_end_needs_no_room_that_the_beginning_has_not_taken(tmp_path):
    write_state(tmp_path, "running")
    path = tmp_path / STATE_NAME
    before = path.stat()
    write_end(tmp_path, RuntimeError("é" * 5000), [])
    after = path.stat()
    assert (after.st_size, after.st_ino) == (before.st_size, before.st_ino)
    assert before.st_size == STATE_BYTES
    assert read_state(tmp_path).message.endswith("...")


def test_an_earlier_version_s_run_is_not_called_killed(tmp_path):
    assert read_state(tmp_path).state == "unknown"


def test_time_left_is_that_of_the_last_steps():
    steps = [make_entry(step=step, train=100.0) for step in range(1, 6)]
    steps += [make_entry(step=step, train=2.0) for step in range(6, 26)]
    assert seconds_left(steps, "mgpo", 30) == pytest.approx(10.0)
    assert seconds_left([replace(steps[0], step=None)], "mgpo", 30) is None
