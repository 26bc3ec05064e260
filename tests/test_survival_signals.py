"""Signals to real runs, and a second process in their directory: exit codes, messages, and the same
result in the end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.survival import RECIPE, at_step, outcome, run_command
from vibelite.rollout.transformers_engine import TransformersEngine
from vibelite.run_dir import read_jsonl
from vibelite.training.checkpoint import saved_steps

# Too many steps to end before it is stopped, saved too rarely to help.
LONG = ("stages.sft.num_steps=100000", "stages.sft.checkpoint_every=50000")
PATIENCE_SECONDS = 120


@contextmanager
def running(run_dir: Path, log: Path, *overrides: str) -> Iterator[subprocess.Popen[bytes]]:
    """A real run, at least two steps old."""
    sets = [argument for override in overrides for argument in ("--set", override)]
    command = [sys.executable, "-m", "vibelite", "run", RECIPE, "--run-dir", run_dir, *sets]
    steps = run_dir / "stages" / "00-sft" / "steps.jsonl"
    before = len(list(read_jsonl(steps)))
    with open(log, "w") as output:
        process = subprocess.Popen(
            [*map(str, command)],
            stdout=subprocess.DEVNULL,
            stderr=output,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(list(read_jsonl(steps))) < before + 2:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


def test_signals_a_second_process_and_a_kill(tmp_path, capsys):
    run_dir, log = tmp_path / "run", tmp_path / "log"
    resume = run_dir / "stages" / "00-sft" / "resume"
    steps = run_dir / "stages" / "00-sft" / "steps.jsonl"

    with running(run_dir, log, *LONG) as process:
        second = run_command(capsys, run_dir, *LONG)
        assert second.exit_code == 2
        assert f"{run_dir}: in use by process {process.pid} on " in second.stderr
        assert f"kill {process.pid}; it saves first" in second.stderr
        assert len(second.stderr.splitlines()) == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 75
    text = log.read_text()
    assert "Traceback" not in text
    assert text.splitlines()[-1] == (f"stopped by SIGTERM; the same command goes on in {run_dir}")
    (saved,) = saved_steps(resume)
    assert [row["step"] for row in read_jsonl(steps)] == list(range(1, saved + 1))

    with running(run_dir, log, *LONG) as process:  # goes on where it stopped, and is killed
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert [row["step"] for row in read_jsonl(steps)][: saved + 2] == list(range(1, saved + 3))

    with running(run_dir, log, *LONG) as process:  # takes over from the dead one
        process.send_signal(signal.SIGSTOP)  # so that both signals are there when it goes on
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        assert process.wait(PATIENCE_SECONDS) == 75
    assert (
        "note: " in log.read_text() and "which ended without releasing its lock" in log.read_text()
    )
    assert "stopped by" not in log.read_text(), "it saved, though asked twice"
    assert saved_steps(resume) == [saved]


def test_a_signal_within_a_rollout_abandons_it_and_saves_the_steps_before(
    tmp_path, capsys, whole, monkeypatch
):
    """Step 4 is interrupted; without the signal, 2 would be the last state before it."""
    stream, armed = TransformersEngine.stream, []

    def interrupted(self, *arguments, **options):
        for number, item in enumerate(stream(self, *arguments, **options)):
            if armed and number == 3:
                signal.raise_signal(signal.SIGTERM)
            yield item

    with monkeypatch.context() as patch, at_step(3, lambda: armed.append(True)):
        patch.setattr(TransformersEngine, "stream", interrupted)
        ended = run_command(capsys, tmp_path / "run")
    assert ended.exit_code == 75
    mgpo = tmp_path / "run" / "stages" / "03-mgpo"
    assert saved_steps(mgpo / "resume") == [2, 3]
    assert [row["step"] for row in read_jsonl(mgpo / "steps.jsonl")] == [1, 2, 3]
    assert run_command(capsys, tmp_path / "run").exit_code == 0
    assert outcome(tmp_path / "run") == whole
