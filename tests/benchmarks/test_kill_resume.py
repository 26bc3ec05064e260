"""The script that kills runs: what it counts as killed, as inside a write, and as equal."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.kill_resume import (
    Attempt,
    Job,
    describe,
    killed_run,
    outcome,
    run_and_kill,
    summary,
    temporaries,
)
from vibelite.telemetry.ledger import run_cost

SLEEPING = "import time; time.sleep(60)"


def job(tmp_path: Path, program: str) -> Job:
    run_dir = tmp_path / "run"
    run_dir.mkdir(exist_ok=True)
    return Job([sys.executable, "-c", program, str(run_dir)], tmp_path / "log", run_dir)


def test_speed_may_differ_and_weights_and_metrics_may_not(nano_run, tmp_path):
    whole = outcome(nano_run)
    (path,) = nano_run.glob("stages/*-mgpo/steps.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for metric, is_equal in {"rollout/tokens_per_second": True, "policy/loss": False}.items():
        run = tmp_path / metric.replace("/", "-")
        shutil.copytree(nano_run, run)
        changed = [row | {"metrics": row["metrics"] | {metric: 9.5}} for row in rows]
        text = "".join(json.dumps(row) + "\n" for row in changed)
        (run / path.relative_to(nano_run)).write_text(text)
        assert (outcome(run) == whole) == is_equal, metric
        (run / "export" / "model.safetensors").write_bytes(b"other weights")
        assert outcome(run)["weights_sha256"] != whole["weights_sha256"]


def test_the_ledger_is_held_against_the_clock_of_all_attempts(nano_run, tmp_path):
    paid, _ = run_cost(nano_run / "ledger")
    attempts = [Attempt(0.4 * paid, killed=True, left=["base"]), Attempt(0.65 * paid, killed=False)]
    found = describe(Job([], tmp_path / "log", nano_run), attempts, outcome(nano_run))
    assert found["wall_seconds"] == pytest.approx(1.05 * paid, abs=1e-3)
    assert found["ledger_error"] == pytest.approx(1 / 1.05 - 1, abs=1e-5)
    assert all(found["equal"].values())
    total = summary([found, found])  # the first is the undisturbed one
    assert (total["kills"], total["kills_inside_a_write"]) == (1, 1)
    assert (total["kills_before_any_work"], total["all_equal"]) == (1, True)
    found["equal"]["steps"] = False
    assert not summary([found])["all_equal"]


def test_what_ends_by_itself_is_not_killed_and_what_fails_is_an_error(tmp_path):
    ended = run_and_kill(job(tmp_path, "pass"), Draws(1), 60.0, aimed=False)
    assert not ended.killed
    with pytest.raises(subprocess.CalledProcessError):
        run_and_kill(job(tmp_path, "raise SystemExit(1)"), Draws(1), 60.0, aimed=False)
    sleeping = run_and_kill(job(tmp_path, SLEEPING), Draws(0), 60.0, aimed=False)
    assert sleeping.killed and sleeping.seconds < 30


class Draws(random.Random):
    """Draws the smallest number, or the largest."""

    def __init__(self, end: int) -> None:
        self.end = end

    def uniform(self, a: float, b: float) -> float:
        return (a, b)[self.end]


WRITING = """
import pathlib, sys, time
run_dir = pathlib.Path(sys.argv[1])
time.sleep(0.3)
(run_dir / ".base.tmp").mkdir()
time.sleep(60)
"""


def test_an_aimed_kill_waits_for_a_write_and_tells_what_was_left(tmp_path):
    attempt = run_and_kill(job(tmp_path, WRITING), Draws(0), 60.0, aimed=True)
    assert attempt.killed and attempt.left == [".base.tmp"]
    assert attempt.seconds >= 0.3
    # What an earlier process left is neither waited for nor counted.
    assert {name for name, _ in temporaries(tmp_path / "run")} == {".base.tmp"}
    again = run_and_kill(job(tmp_path, SLEEPING), Draws(0), 0.0, aimed=False)
    assert again.killed and again.left == []


def test_a_run_is_killed_so_many_times_and_then_ends(tmp_path):
    slow = "import time; time.sleep(1)"
    attempts = killed_run(job(tmp_path, slow), Draws(0), 1.0, 2)
    assert [attempt.killed for attempt in attempts] == [True, True, False]
