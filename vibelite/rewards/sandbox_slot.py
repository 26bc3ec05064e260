"""One slot of the sandbox: a fork server that runs one program at a time within its limits and says
how each ended.
"""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from vibelite.errors import DataError, SandboxError
from vibelite.rewards.sandbox_program import EXIT_MEMORY

Outcome = Literal["exit", "runtime_error", "time_limit", "memory_limit", "output_limit"]

_MAX_SECONDS, _MAX_OUTPUT_BYTES = 3600.0, 1 << 30
_DETAIL_BYTES = 2000

# A fork server imports for 0.3 s of CPU time; a busy machine gets much more.
_START_SECONDS = 60.0
# What a program's process may take beyond its deadline to start and to be reaped.
_SLACK_SECONDS = 30.0
# The package's own directory is on the server's path only while it imports itself from there.
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from vibelite.rewards.sandbox_server import serve; "
    "sys.path.pop(0); serve(int(sys.argv[1]), sys.argv[2].split())"
)


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
        detail = without_controls(_tail(stderr))
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


def without_controls(text: str) -> str:
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


class Slot:
    """A fork server with the wanted layers, which runs one program at a time; started again when it
    has failed.
    """

    def __init__(self, layers: tuple[str, ...]) -> None:
        self._wanted = layers
        self.layers: list[str] = []
        self._server: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._errors = -1

    def start(self) -> None:
        """Raises SandboxError if the server cannot be started, or a layer cannot be had."""
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._errors = os.memfd_create("stderr")
        try:
            self._server = _start_server(theirs.fileno(), self._errors, self._wanted)
        except OSError as error:
            raise SandboxError(f"the fork server does not start: {error}") from error
        finally:
            theirs.close()
        report = self._receive(_START_SECONDS)
        if report is not None and "ready" in report:
            self.layers = report["ready"]
            return
        reason = report["error"] if report is not None else self._last_words()
        self.close()
        raise SandboxError(f"the fork server does not start: {reason}")

    def run(
        self,
        source: str,
        *,
        stdin: bytes = b"",
        function: str = "",
        limits: Limits = DEFAULT_LIMITS,
    ) -> Execution:
        """Runs a program, or one call of its `function`, which may be a method of a class Solution;
        its `stdin` has one JSON argument a line.

        Raises SandboxError only if the sandbox itself fails, twice.
        """
        reason = ""
        for _ in range(2):
            if self._server is None:
                self.start()
            contents = (source.encode(errors="replace"), stdin, b"", b"", b"")
            descriptors = [_memory_file(content) for content in contents]
            try:
                answer = self._ask(descriptors, function, limits)
                if answer is not None and "status" in answer:
                    return judge(answer, descriptors[2:], limits)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
            reason = answer["setup"] if answer is not None else self._last_words()
            self.close()
        raise SandboxError(f"programs cannot be started in the sandbox: {reason}")

    def close(self) -> None:
        """Ends the server, and with it the program that it runs."""
        if self._server is None or self._connection is None:
            return
        os.killpg(self._server.pid, signal.SIGKILL)
        self._server.wait()
        self._connection.close()
        os.close(self._errors)
        self._server = self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, descriptors: list[int], function: str, limits: Limits) -> dict[str, Any] | None:
        """The server's answer; None if it gives none."""
        request = {
            "function": function,
            "seconds": limits.seconds,
            "cpu_seconds": math.ceil(limits.seconds),
            "memory_bytes": limits.memory_bytes,
            "output_bytes": limits.output_bytes,
        }
        assert self._connection is not None, "the server has been started"
        try:
            socket.send_fds(self._connection, [json.dumps(request).encode()], descriptors)
        except OSError:  # it has died since its last program
            return None
        return self._receive(limits.seconds + _SLACK_SECONDS)

    def _receive(self, seconds: float) -> dict[str, Any] | None:
        """The server's next message; None if none comes."""
        assert self._connection is not None, "the server has been started"
        self._connection.settimeout(seconds)
        try:
            message = self._connection.recv(65536)
        except OSError:
            return None
        return json.loads(message) if message else None

    def _last_words(self) -> str:
        """What the server wrote to its standard error."""
        return _tail(self._errors).strip() or "no answer"


def _start_server(connection: int, errors: int, layers: tuple[str, ...]) -> subprocess.Popen[bytes]:
    package_root = Path(__file__).parent.parent.parent
    return subprocess.Popen(
        # The interpreter itself, not a virtual environment's: no installed package.
        [os.path.realpath(sys.executable), "-s", "-S", "-P", "-X", "utf8", "-c", _BOOT]
        + [str(package_root), str(connection), " ".join(layers)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        pass_fds=[connection],
        # The order of sets, and so a program's verdict, is the same in every run.
        env={"PYTHONHASHSEED": "0"},
        cwd="/",
        start_new_session=True,
    )


def _memory_file(content: bytes) -> int:
    """A descriptor of a file in memory that holds `content`, at its start."""
    descriptor = os.memfd_create("program")
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _tail(descriptor: int) -> str:
    """The end of a file as text."""
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, _DETAIL_BYTES, max(0, size - _DETAIL_BYTES))
    return tail.decode(errors="replace")
