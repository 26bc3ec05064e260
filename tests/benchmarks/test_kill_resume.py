"""The script that kills runs: what it counts as killed, as inside a write, and as equal."""

import json
import random
import signal
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

RESULT = {
    "stage": "sft", "benchmark": "held-out", "pass_at_1": 0.5, "pass_at_1_ci": [0.4, 0.6],
    "pass_at_k": {"2": 0.7},
}  # fmt: skip


def job(tmp_path: Path, program: str) -> Job:
    run_dir = tmp_path / "run"
    run_dir.mkdir(exist_ok=True)
    return Job([sys.executable, "-c", program, str(run_dir)], tmp_path / "log", run_dir)


def write_run(run_dir: Path, *, weights: bytes = b"weights", loss: float = 1.0, speed: float = 9.0):
    stage = run_dir / "stages" / "00-sft"
    stage.mkdir(parents=True, exist_ok=True)
    (run_dir / "export").mkdir(exist_ok=True)
    (run_dir / "export" / "model.safetensors").write_bytes(weights)
    (run_dir / "summary.json").write_text(json.dumps({"results": [{**RESULT, "seconds": speed}]}))
    metrics = {"sft/loss": loss, "rollout/tokens_per_second": speed}
    (stage / "steps.jsonl").write_text(json.dumps({"step": 1, "metrics": metrics}) + "\n")
    ledger = run_dir / "ledger"
    ledger.mkdir(exist_ok=True)
    lines = [
        {"kind": "open", "num_gpus": 0, "watts_beside_gpus": None},
        {"kind": "price", "price": None},
        {
            "kind": "time", "stage": "sft", "step": 1, "what": "step", "details": {}, "counts": {},
            "nanoseconds": {"train": 4 * 10**9}, "tokens": {}, "gpu_millijoules": None,
        },
    ]  # fmt: skip
    named = [
        {"segment": "a", "seq": number, "utc": "2026-11-28T00:00:00+00:00"} | line
        for number, line in enumerate(lines)
    ]
    (ledger / "0001-a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in named))


def test_speed_may_differ_and_weights_and_metrics_may_not(tmp_path):
    for name, values in {
        "one": {}, "faster": {"speed": 11.0}, "other": {"weights": b"x"}, "worse": {"loss": 1.5},
    }.items():  # fmt: skip
        write_run(tmp_path / name, **values)
    whole = outcome(tmp_path / "one")
    assert outcome(tmp_path / "faster") == whole
    assert outcome(tmp_path / "other")["weights_sha256"] != whole["weights_sha256"]
    assert outcome(tmp_path / "worse")["steps"] != whole["steps"]


def test_the_ledger_is_held_against_the_clock_of_all_attempts(tmp_path):
    write_run(tmp_path / "run")
    one = Job([], tmp_path / "log", tmp_path / "run")
    attempts = [Attempt(1.5, killed=True, left=["base"]), Attempt(2.55, killed=False)]
    found = describe(one, attempts, outcome(tmp_path / "run"))
    assert found["wall_seconds"] == 4.05
    assert found["ledger_error"] == pytest.approx(4 / 4.05 - 1, abs=1e-5)
    assert all(found["equal"].values())
    total = summary([found, found])  # the first is the undisturbed one
    assert (total["kills"], total["kills_inside_a_write"]) == (1, 1)
    assert total["kills_before_any_work"] == 1
    assert total["all_equal"]
    found["equal"]["steps"] = False
    assert not summary([found])["all_equal"]


def test_what_ends_by_itself_is_not_killed_and_what_fails_is_an_error(tmp_path):
    ended = run_and_kill(job(tmp_path, "pass"), FarAway(), 60.0, aimed=False)
    assert not ended.killed
    with pytest.raises(subprocess.CalledProcessError):
        run_and_kill(job(tmp_path, "raise SystemExit(1)"), FarAway(), 60.0, aimed=False)
    sleeping = run_and_kill(job(tmp_path, "import time; time.sleep(60)"), Soon(), 60.0, aimed=False)
    assert sleeping.killed and sleeping.seconds < 30


class FarAway(random.Random):
    """Draws the largest number."""

    def uniform(self, a: float, b: float) -> float:
        return b


class Soon(random.Random):
    """Draws the smallest number."""

    def uniform(self, a: float, b: float) -> float:
        return a


WRITING = """
import pathlib, sys, time
run_dir = pathlib.Path(sys.argv[1])
time.sleep(0.3)
(run_dir / ".base.tmp").mkdir()
time.sleep(60)
"""


def test_an_aimed_kill_waits_for_a_write_and_tells_what_was_left(tmp_path):
    attempt = run_and_kill(job(tmp_path, WRITING), Soon(), 60.0, aimed=True)
    assert attempt.killed and attempt.left == [".base.tmp"]
    assert attempt.seconds >= 0.3
    # What an earlier process left is neither waited for nor counted.
    assert {name for name, _ in temporaries(tmp_path / "run")} == {".base.tmp"}
    again = run_and_kill(job(tmp_path, "import time; time.sleep(60)"), Soon(), 0.0, aimed=False)
    assert again.killed and again.left == []


def test_a_run_is_killed_so_many_times_and_then_ends(tmp_path):
    slow = "import time; time.sleep(1)"
    attempts = killed_run(job(tmp_path, slow), Soon(), 1.0, 2)
    assert [attempt.killed for attempt in attempts] == [True, True, False]
    assert signal.SIGKILL == 9  # what a killed process ends with
    quick = killed_run(job(tmp_path, "pass"), FarAway(), 60.0, 2)
    assert [attempt.killed for attempt in quick] == [False]
