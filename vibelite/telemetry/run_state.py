"""What became of a run: state.json says "running" from the start of a process to its end, and then
how it ended. Where it says "running" and no process holds the run's lock, that one was killed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Literal

from vibelite.errors import BudgetReached, NothingLearned, RunStopped, VibeLiteError
from vibelite.run_lock import is_in_use
from vibelite.storage import sync_file
from vibelite.telemetry.ledger import Entry, last_sign_of_life
from vibelite.units import NANOSECONDS, duration

State = Literal["running", "finished", "stopped", "budget", "failed", "killed", "unknown"]
STATE_NAME = "state.json"
# Written over one another in place, so that a full disk does not keep the end from being told.
STATE_BYTES = 4096
LONGEST_MESSAGE = 1200
# Steps whose mean says how long those to come take.
WINDOW = 20


@dataclass(frozen=True, slots=True)
class RunState:
    """How a run stands, since or until `utc`; `message`: why it ended, in words."""

    state: State
    message: str = ""
    exit_code: int | None = None
    utc: str = ""


def write_state(
    run_dir: Path, state: State, message: str = "", exit_code: int | None = None
) -> None:
    if len(message) > LONGEST_MESSAGE:
        message = f"{message[:LONGEST_MESSAGE]} ..."
    now = datetime.now(UTC).isoformat(timespec="seconds")
    values = asdict(RunState(state, message, exit_code, now))
    text = json.dumps(values, ensure_ascii=False).encode("utf-8", "replace")
    path = run_dir / STATE_NAME
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(descriptor, text.ljust(STATE_BYTES - 1) + b"\n", 0)
        os.ftruncate(descriptor, max(STATE_BYTES, len(text) + 1))
    finally:
        os.close(descriptor)
    sync_file(path)


def write_end(run_dir: Path, error: Exception | None, unfinished: Sequence[str]) -> None:
    """Keeps how the process ended: with `error`, or by itself with the stages `unfinished` left."""
    match error:
        case None if unfinished:
            message = f"as asked, before {unfinished[0]}; the same command without --until goes on"
            write_state(run_dir, "stopped", message, 0)
        case None:
            write_state(run_dir, "finished", exit_code=0)
        case BudgetReached():
            message = f"{error}; raise the limit and run the same command to go on"
            write_state(run_dir, "budget", message, error.exit_code)
        case RunStopped() if not isinstance(error, NothingLearned):
            message = f"{error}; the same command goes on"
            write_state(run_dir, "stopped", message, error.exit_code)
        case VibeLiteError():
            write_state(run_dir, "failed", str(error), error.exit_code)
        case _:
            write_state(run_dir, "failed", f"{type(error).__name__}: {error}", 1)


def read_state(run_dir: Path) -> RunState:
    """How the run stands: what its directory says, unless that is of a process that is gone."""
    try:
        known = RunState(**json.loads((run_dir / STATE_NAME).read_text(encoding="utf-8")))
    except FileNotFoundError:  # of an earlier version
        known = RunState("unknown", utc=last_sign_of_life(run_dir / "ledger"))
    except ValueError:  # torn by a crash
        known = RunState("running")
    if known.state != "running" or is_in_use(run_dir):
        return known
    message = "its process is gone and did not say why; the same command goes on"
    return RunState("killed", message, None, last_sign_of_life(run_dir / "ledger") or known.utc)


def ago(utc: str) -> str:
    """How long ago that was; "" where unknown."""
    if not utc:
        return ""
    seconds = (datetime.now(UTC) - datetime.fromisoformat(utc)).total_seconds()
    return f"{duration(max(0, round(seconds)))} ago"


def seconds_left(ledger: Sequence[Entry], stage: str, num_steps: int) -> float | None:
    """Until the last of a stage's steps, at the pace of the last ones; None where unknown."""
    steps = [entry for entry in ledger if entry.stage == stage and entry.step is not None]
    if not steps or steps[-1].step is None:
        return None
    pace = fmean(entry.wall_nanoseconds for entry in steps[-WINDOW:]) / NANOSECONDS
    return pace * (num_steps - steps[-1].step)
