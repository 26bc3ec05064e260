"""SIGKILL at random instants of a run that writes its states beside the training: the same command
ends with the same bits, and at most the steps since the last sealed state are taken again.
"""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from benchmarks.kill_resume import Job, job_of, run_to_end, temporaries
from tests.survival import RECIPE, outcome
from vibelite.run_dir import read_jsonl
from vibelite.training.checkpoint import saved_steps

pytestmark = pytest.mark.slow
# 20 and 6 took eight minutes, once (benchmarks/README.md).
NUM_KILLS, NUM_INSIDE_A_WRITE = 6, 2
EVERY_STEP = ("stages.sft.checkpoint_every=2", "stages.mgpo.checkpoint_every=1")
LONGEST_SECONDS = 300.0


def kill_after(job: Job, seconds: float) -> bool:
    """Kills a run so long after it was started; whether it had not ended before."""
    with open(job.log, "a") as output:
        process = subprocess.Popen(job.arguments, stdout=output, stderr=subprocess.STDOUT)
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    assert process.wait() in (0, -signal.SIGKILL), job.log.read_text()
    return process.returncode != 0


def kill_inside_a_write(job: Job) -> bool:
    """Kills a run while a state or a model is half written: stopped, so that it stays so. Whether
    that came before its end.
    """
    before = temporaries(job.run_dir)
    deadline = time.monotonic() + LONGEST_SECONDS
    with open(job.log, "a") as output:
        process = subprocess.Popen(job.arguments, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            assert time.monotonic() < deadline, job.log.read_text()
            if temporaries(job.run_dir) - before:
                process.send_signal(signal.SIGSTOP)
                if temporaries(job.run_dir) - before:
                    process.kill()
                    process.wait()
                    return True
                process.send_signal(signal.SIGCONT)
    assert process.returncode == 0, job.log.read_text()
    return False


def require_nothing_lost(run_dir: Path) -> None:
    """Every step that a sealed state is after is recorded."""
    for resume in run_dir.glob("stages/*/resume"):
        for step in saved_steps(resume)[-1:]:
            recorded = [row["step"] for row in read_jsonl(resume.parent / "steps.jsonl")]
            assert recorded[:step] == list(range(1, step + 1))


def killed_to_the_end(job: Job, draw: random.Random) -> tuple[int, int]:
    """Kills a run up to NUM_KILLS times, every other time inside a write, then lets it end; how
    often it was killed, and how often inside a write.
    """
    killed = [0, 0]
    for number in range(NUM_KILLS):
        is_aimed = number % 2
        if not (kill_inside_a_write(job) if is_aimed else kill_after(job, draw.uniform(2, 12))):
            break
        killed[is_aimed] += 1
        require_nothing_lost(job.run_dir)
    run_to_end(job)
    return sum(killed), killed[1]


def test_killed_at_random_and_inside_a_write_it_ends_with_the_same_bits(
    tmp_path: Path, whole, monkeypatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    draw, num_kills, num_inside = random.Random(0), 0, 0
    while num_kills < NUM_KILLS or num_inside < NUM_INSIDE_A_WRITE:
        job = job_of(RECIPE, tmp_path / f"run-{num_kills}", EVERY_STEP)
        kills, inside = killed_to_the_end(job, draw)
        num_kills, num_inside = num_kills + kills, num_inside + inside
        assert outcome(job.run_dir) == whole
    print(f"{num_kills} kills, {num_inside} of them inside a write")
