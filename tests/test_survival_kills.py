"""SIGKILL at many moments of a run that writes its states beside the training: the same command
ends with the same bits, and at most the steps since the last sealed state are taken again.
"""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.kill_resume import Job, job_of, run_to_end, temporaries
from tests.survival import RECIPE, outcome
from vibelite.run_dir import read_jsonl
from vibelite.training.checkpoint import saved_steps

pytestmark = pytest.mark.slow
# 20 of them took eight minutes, once (benchmarks/README.md).
NUM_KILLS = 10
EVERY_STEP = ("stages.sft.checkpoint_every=2", "stages.mgpo.checkpoint_every=1")
# A disk that takes its time, so that a write lasts longer than the look for it.
SLOW_DISK = """
import os, time
fsync = os.fsync
def slow_fsync(descriptor):
    time.sleep(0.05)
    fsync(descriptor)
os.fsync = slow_fsync
"""


def is_killed_when(job: Job, has_come: Callable[[], object]) -> bool:
    """Kills a run once `has_come`; whether that was before its end."""
    with open(job.log, "a") as output:
        process = subprocess.Popen(job.arguments, stdout=output, stderr=subprocess.STDOUT)
    while process.poll() is None and not has_come():
        time.sleep(0.002)
    process.kill()
    assert process.wait() in (0, -signal.SIGKILL), job.log.read_text()
    return process.returncode != 0


def work_is_recorded(run_dir: Path, num_entries: int) -> Callable[[], bool]:
    """So many more entries of the ledger: a start, a load, a step, a probed checkpoint."""

    def count() -> int:
        ledger = run_dir.glob("ledger/*.jsonl")
        return sum(path.read_text().count('"kind": "time"') for path in ledger)

    before = count()
    return lambda: count() >= before + num_entries


def a_write_has_begun(run_dir: Path) -> Callable[[], bool]:
    """A model or a state lies under a temporary name, which an earlier process did not leave."""
    before = temporaries(run_dir)
    return lambda: bool(temporaries(run_dir) - before)


def require_nothing_lost(run_dir: Path) -> None:
    """Every step that a sealed state is after is recorded."""
    for resume in run_dir.glob("stages/*/resume"):
        for step in saved_steps(resume)[-1:]:
            recorded = [row["step"] for row in read_jsonl(resume.parent / "steps.jsonl")]
            assert recorded[:step] == list(range(1, step + 1))


def test_killed_after_any_work_and_inside_writes_it_ends_with_the_same_bits(
    tmp_path: Path, whole, monkeypatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW_DISK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    draw, num_inside = random.Random(0), 0
    job = job_of(RECIPE, tmp_path / "run", EVERY_STEP)
    for number in range(NUM_KILLS):
        is_writing = a_write_has_begun(job.run_dir)
        is_at_work = work_is_recorded(job.run_dir, draw.randint(1, 4))
        assert is_killed_when(job, is_writing if number % 2 else is_at_work)
        num_inside += is_writing()
        require_nothing_lost(job.run_dir)
    assert num_inside
    run_to_end(job)
    assert outcome(job.run_dir) == whole
    print(f"{NUM_KILLS} kills, {num_inside} of them inside a write")
