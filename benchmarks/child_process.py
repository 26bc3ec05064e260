"""A measurement in a process of its own, with a limit of time: however it ends, what it had written
until then is kept, and nothing of it is left running.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parent.parent
LAST_CHARACTERS = 3000
# Between the request to end and the end: time for a measurement that has processes of its own.
GRACE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a measurement ended. `result`: the JSON value in its file, None without one. `failure`:
    empty, or the reason on a line and the end of what was printed. `is_cut`: its time was over.
    """

    seconds: float
    result: Any
    failure: str
    is_cut: bool


def run_child(
    command: Sequence[str],
    out: Path,
    *,
    seconds: float,
    environment: Mapping[str, str] | None = None,
    is_quiet: bool = False,
) -> Outcome:
    """Runs `command`, which writes JSON to `out`, for at most so many seconds, and ends its whole
    process group, also where this process is interrupted. What it prints is passed on unless
    `is_quiet`; `environment` is added to this process's own.
    """
    start = time.monotonic()
    out.unlink(missing_ok=True)  # an earlier run's
    printed: list[str] = []
    is_cut = False
    with termination_as_exit() as leave_if_asked:
        try:
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
                errors="replace", start_new_session=True,
            )  # fmt: skip
        except FileNotFoundError:
            return Outcome(0.0, None, f"there is no {command[0]}", is_cut=False)
        assert process.stdout is not None
        reader = threading.Thread(target=read_lines, args=(process.stdout, printed, is_quiet))
        reader.start()
        try:
            leave_if_asked()
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            is_cut = True
        finally:
            end_group(process)
            reader.join(timeout=GRACE_SECONDS)
    result, failure = read_result(out)
    if is_cut:
        failure = f"not done after {seconds:.0f} s"
    elif process.returncode:
        failure = f"exit code {process.returncode}"
    if failure:
        failure += "\n" + "".join(printed)[-LAST_CHARACTERS:]
    return Outcome(round(time.monotonic() - start, 1), result, failure, is_cut)


def read_lines(stream: IO[str], printed: list[str], is_quiet: bool) -> None:
    for line in stream:
        printed.append(line)
        if not is_quiet:
            print(line, end="", flush=True)


def read_result(out: Path) -> tuple[Any, str]:
    """The JSON value in `out`, and what is wrong with it."""
    if not out.exists():
        return None, "no result"
    try:
        return json.loads(out.read_text()), ""
    except json.JSONDecodeError as error:
        return None, f"its result is not JSON: {error}"


def end_group(process: subprocess.Popen[str]) -> None:
    """Ends whatever is left of the process's group: by SIGTERM, then by SIGKILL."""
    with contextlib.suppress(ProcessLookupError):  # nothing is left
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_SECONDS)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def termination_as_exit() -> Iterator[Callable[[], None]]:
    """A SIGTERM unwinds, so that this process ends its children before itself. Until the function
    that is yielded is called it waits: a child that is being started could not be ended.
    """
    has_come = is_let_through = False

    def leave_if_asked() -> None:
        nonlocal is_let_through
        is_let_through = True
        if has_come:
            sys.exit(128 + signal.SIGTERM)

    def note(*_: object) -> None:
        nonlocal has_come
        has_come = True
        if is_let_through:
            leave_if_asked()

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield leave_if_asked
    finally:
        signal.signal(signal.SIGTERM, before)
