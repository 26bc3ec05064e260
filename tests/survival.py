"""The command `vibelite run` in this process, and faults for it to meet."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.test_pipeline import RECIPE, outcome
from vibelite import cli
from vibelite.telemetry.recorder import Recorder

__all__ = ["RECIPE", "Ended", "at_step", "outcome", "remount", "run_command", "small_disk"]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    exit_code: int
    stderr: str

    @property
    def message(self) -> str:
        """The last line, which is all that a user reads."""
        return self.stderr.strip().splitlines()[-1]


def run_command(
    capsys: pytest.CaptureFixture[str], directory: Path, *overrides: str, recipe: Path = RECIPE
) -> Ended:
    """`vibelite run` with real exit code and messages, without the seconds that a process takes to
    import everything.
    """
    sets = [argument for override in overrides for argument in ("--set", override)]
    arguments = ["vibelite", "run", str(recipe), "--run-dir", str(directory), *sets]
    capsys.readouterr()
    handler = signal.getsignal(signal.SIGTERM)
    code = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments)
        try:
            cli.main()
        except SystemExit as ended:
            assert isinstance(ended.code, int | None)
            code = ended.code or 0
    signal.signal(signal.SIGTERM, handler)
    ended = Ended(code, capsys.readouterr().err)
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended


@contextmanager
def at_step(step: int, fault, *, stage: str = "mgpo") -> Iterator[None]:
    """Calls `fault` just before step `step` (1-based) of a stage is recorded."""
    record_step = Recorder.record_step

    def record(self, number, metrics):
        if number == step and self._stage == stage:
            fault()
        return record_step(self, number, metrics)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "record_step", record)
        yield


@contextmanager
def small_disk(path: Path, num_bytes: int) -> Iterator[Path]:
    """A file system of its own in memory; skips the test where that needs more rights."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(path)]
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def remount(path: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(path)], check=True)
