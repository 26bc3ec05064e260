"""What a program may take in the sandbox, and how it ended."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Any, Literal

from vibelite.errors import DataError
from vibelite.rewards.sandbox_program import EXIT_MEMORY

Outcome = Literal["exit", "runtime_error", "time_limit", "memory_limit", "output_limit"]

_MAX_SECONDS, _MAX_OUTPUT_BYTES = 3600.0, 1 << 30
_DETAIL_BYTES = 2000


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may take."""

    seconds: float = 6.0
    """Of wall-clock time, and of CPU time."""
    memory_bytes: int = 1 << 30
    """Of address space, beyond what the interpreter itself takes."""
    output_bytes: int = 16 << 20
    """Of standard output, standard error and result, each."""

    def __post_init__(self) -> None:
        """Raises DataError for a limit that makes no sense."""
        _check("seconds", self.seconds, _MAX_SECONDS, (int, float))
        _check("memory_bytes", self.memory_bytes, 1 << 46, (int,))
        _check("output_bytes", self.output_bytes, _MAX_OUTPUT_BYTES, (int,))


def _check(name: str, value: float, maximum: float, types: tuple[type, ...]) -> None:
    is_number = isinstance(value, types) and not isinstance(value, bool)
    if not is_number or not 0 < value <= maximum:
        kind = "a whole number" if types == (int,) else "a number"
        raise DataError(f"limits.{name} must be {kind} above 0 and at most {maximum:g}: {value!r}")


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Execution:
    """How a program ended; its output is only what it claims."""

    outcome: Outcome
    """"exit" = with status 0."""
    stdout: bytes
    result: bytes
    """JSON of a function's value; empty if there was no call or it did not return, so that "exit"
    alone is no success. Not checked: the program can write there what it likes, for instance
    nested so deeply that `json.loads` raises RecursionError."""
    detail: str
    """The tail of standard error, or which limit; without characters that steer a terminal."""
    seconds: float
    """Wall-clock time."""


def judge(answer: dict[str, Any], outputs: list[int], limits: Limits) -> Execution:
    """How a program ended, from the fork server's answer and descriptors of the program's stdout,
    stderr and result.
    """
    stdout, stderr, result = outputs
    outcome, detail = _outcome(answer, [os.fstat(output).st_size for output in outputs], limits)
    if not detail:
        size = os.fstat(stderr).st_size
        tail = os.pread(stderr, _DETAIL_BYTES, max(0, size - _DETAIL_BYTES))
        detail = _without_controls(tail.decode(errors="replace"))
    if outcome == "runtime_error" and answer["status"] < 0:
        detail = f"ended by {_signal_name(-answer['status'])}\n{detail}".strip()
    return Execution(
        outcome,
        _read(stdout, limits.output_bytes),
        _read(result, limits.output_bytes),
        detail,
        answer["seconds"],
    )


def _outcome(answer: dict[str, Any], sizes: list[int], limits: Limits) -> tuple[Outcome, str]:
    """The outcome, and which limit was reached if one was."""
    status = answer["status"]
    if max(sizes) > limits.output_bytes or status == -signal.SIGXFSZ:
        return "output_limit", f"more than {limits.output_bytes} bytes of output"
    if answer["is_late"] or status == -signal.SIGXCPU:
        return "time_limit", f"more than {limits.seconds:g} s"
    if answer["cpu_seconds"] > limits.seconds:
        return "time_limit", f"more than {limits.seconds:g} s of CPU time"
    if status == EXIT_MEMORY:
        return "memory_limit", f"more than {limits.memory_bytes} bytes of memory"
    if status == -signal.SIGKILL:
        return "memory_limit", "ended by the kernel, which does that when memory runs out"
    return ("exit" if status == 0 else "runtime_error"), ""


def _without_controls(text: str) -> str:
    """What can be shown: a program's text must not steer the terminal of its reader."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _read(descriptor: int, num_bytes: int) -> bytes:
    chunks = []
    position = 0
    while position < num_bytes and (
        chunk := os.pread(descriptor, min(num_bytes - position, 1 << 20), position)
    ):
        chunks.append(chunk)
        position += len(chunk)
    return b"".join(chunks)
