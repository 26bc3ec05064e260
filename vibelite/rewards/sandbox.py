"""Runs Python programs that nobody has read: one short-lived, confined process for each.

A program can read the Python standard library and its own standard input, write to its own bounded
output, and end; nothing else of the machine is reachable. How strongly that is enforced is the
tier, and a self-test at the start picks the strongest one that holds on this machine.
"""

from __future__ import annotations

import json
import math
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vibelite.errors import DataError, SandboxError
from vibelite.rewards.sandbox_program import EXIT_MEMORY
from vibelite.rewards.sandbox_selftest import self_test

Outcome = Literal["exit", "runtime_error", "time_limit", "memory_limit", "output_limit"]

# Strongest first; what each asks of the kernel. All have limits of resources, and, where the
# sandbox is started by root, a user id and a root directory of their own.
TIERS: dict[str, tuple[str, ...]] = {
    "namespaces": ("namespaces", "landlock", "seccomp"),
    "landlock": ("landlock", "seccomp"),
    "seccomp": ("seccomp",),
}
WEAK = "weak"
# A fork server imports for 0.3 s of CPU time; a busy machine gets much more.
START_SECONDS = 60.0
# What a program's process may take beyond its deadline to start and to be reaped.
_SLACK_SECONDS = 30.0
_MAX_SECONDS, _MAX_OUTPUT_BYTES = 3600.0, 1 << 30
_DETAIL_BYTES = 2000
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


@dataclass(frozen=True, slots=True)
class Execution:
    """How a program ended; its output is only what it claims."""

    outcome: Outcome
    """"exit" = with status 0."""
    stdout: bytes
    result: bytes
    """JSON of a function's value; empty if there was no call or it did not return. Not checked:
    the program can write there what it likes."""
    detail: str
    """The tail of standard error, or which limit."""
    seconds: float
    """Wall-clock time."""


class Sandbox:
    """Fork servers that run `num_slots` programs at once; `run` may be called from any thread.

    >>> with Sandbox(num_slots=2) as sandbox:
    ...     sandbox.run("print(int(input()) + 1)", stdin=b"41").stdout
    b'42\\n'
    """

    def __init__(
        self, *, num_slots: int = 1, allow_weak: bool = False, tiers: tuple[str, ...] = tuple(TIERS)
    ) -> None:
        """Starts the servers and tests them with hostile programs; `tiers` are the ones to try.

        Raises SandboxError where no tier holds, unless `allow_weak`: then programs run with limits
        of resources and little else, and `tier` is "weak".
        """
        assert num_slots >= 1, f"num_slots {num_slots}"
        self._slots: queue.LifoQueue[_Slot] = queue.LifoQueue()
        self._all: list[_Slot] = []
        self._is_closed = False
        self.tier, first = _strongest(tiers, allow_weak=allow_weak)
        self.layers = first.layers
        for slot in (first, *(_Slot(TIERS.get(self.tier, ())) for _ in range(num_slots - 1))):
            self._all.append(slot)
            self._slots.put(slot)

    def run(
        self, source: str, *, stdin: bytes = b"", function: str = "", limits: Limits = Limits()
    ) -> Execution:
        """Runs a program, or one call of its `function`; waits for a free slot.

        With `function`, `stdin` has one JSON argument a line; it may be a method of a class
        Solution. Raises SandboxError only if the sandbox itself fails, twice.
        """
        assert not self._is_closed, "the sandbox is closed"
        slot = self._slots.get()
        try:
            return slot.run(source, stdin, function, limits)
        finally:
            self._slots.put(slot)

    def close(self) -> None:
        """Ends all servers and what runs in them."""
        self._is_closed = True
        for slot in self._all:
            slot.close()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def describe_tier() -> str:
    """One line on how programs would be confined on this machine, or why they cannot be."""
    try:
        with Sandbox() as sandbox:
            return f"{sandbox.tier} ({', '.join(sandbox.layers)})"
    except SandboxError as error:
        return f"none: {error}"


def _strongest(tiers: tuple[str, ...], *, allow_weak: bool) -> tuple[str, _Slot]:
    """The first tier that starts and passes the self-test, and a slot of it."""
    reasons = []
    for tier in tiers:
        slot = _Slot(TIERS[tier])
        try:
            slot.start()
            broken = self_test(lambda source, slot=slot: slot.run(source, b"", "probe", Limits()))
        except SandboxError as error:
            broken = str(error)
        if not broken:
            return tier, slot
        slot.close()
        reasons.append(f"{tier}: {broken}")
    if not allow_weak:
        raise SandboxError(
            f"programs cannot be confined on this machine ({'; '.join(reasons)}); use a machine "
            "or container with seccomp filters, or, where nothing on it matters, "
            "verification.allow_weak_sandbox: true"
        )
    slot = _Slot(())
    slot.start()
    return WEAK, slot


class _Slot:
    """One fork server, started when it is needed and again when it has failed."""

    def __init__(self, layers: tuple[str, ...]) -> None:
        self._wanted = layers
        self.layers: list[str] = []
        self._server: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._ending = threading.Lock()

    def start(self) -> None:
        """Raises SandboxError if the server cannot be started, or a layer cannot be had."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        package_root = Path(__file__).parent.parent.parent
        errors = os.memfd_create("stderr")
        with theirs:
            self._server = subprocess.Popen(
                # The interpreter itself, not a virtual environment's: no installed package.
                [os.path.realpath(sys.executable), "-s", "-S", "-P", "-X", "utf8", "-c", _BOOT]
                + [str(package_root), str(theirs.fileno()), " ".join(self._wanted)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=[theirs.fileno()],
                # The order of sets, and so a program's verdict, is the same in every run.
                env={"PYTHONHASHSEED": "0"},
                cwd="/",
                start_new_session=True,
            )
        self._connection = ours
        report = self._receive(START_SECONDS)
        if report is None or "ready" not in report:
            told = os.pread(errors, _DETAIL_BYTES, 0).decode(errors="replace").strip()
            os.close(errors)
            self.close()
            reason = told if report is None else report["error"]
            raise SandboxError(f"the fork server does not start: {reason or 'no answer'}")
        os.close(errors)
        self.layers = report["ready"]

    def run(self, source: str, stdin: bytes, function: str, limits: Limits) -> Execution:
        """Runs a program; a failure of the server is not the program's: it gets a second one."""
        reason = ""
        for _ in range(2):
            if self._connection is None:
                self.start()
            contents = (source.encode(errors="replace"), stdin, b"", b"", b"")
            descriptors = [_memory_file(content) for content in contents]
            try:
                answer = self._ask(descriptors, function, limits)
                if answer is not None and "status" in answer:
                    return _execution(answer, descriptors[2:], limits)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
            reason = "no answer" if answer is None else answer["setup"]
            self.close()
        raise SandboxError(f"a program could not be started in the sandbox: {reason}")

    def _ask(self, descriptors: list[int], function: str, limits: Limits) -> dict[str, Any] | None:
        request = {
            "function": function,
            "seconds": limits.seconds,
            "cpu_seconds": math.ceil(limits.seconds),
            "memory_bytes": limits.memory_bytes,
            "output_bytes": limits.output_bytes,
        }
        assert self._connection is not None
        try:
            socket.send_fds(self._connection, [json.dumps(request).encode()], descriptors)
        except OSError:  # it has died since its last program
            return None
        return self._receive(limits.seconds + _SLACK_SECONDS)

    def _receive(self, seconds: float) -> dict[str, Any] | None:
        """The server's next message; None if none comes."""
        assert self._connection is not None
        self._connection.settimeout(seconds)
        try:
            message = self._connection.recv(65536)
        except OSError:
            return None
        return json.loads(message) if message else None

    def close(self) -> None:
        """Ends the server, and with it the program that it runs."""
        with self._ending:
            if self._server is None:
                return
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()
            self._server = None
            if self._connection is not None:
                self._connection.close()
            self._connection = None


def _memory_file(content: bytes) -> int:
    """A descriptor of a file in memory that holds `content`, at its start."""
    descriptor = os.memfd_create("program")
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _execution(answer: dict[str, Any], outputs: list[int], limits: Limits) -> Execution:
    """Judges how a program ended; `outputs` are its stdout, stderr and result."""
    stdout, stderr, result = outputs
    outcome, detail = _outcome(answer, [os.fstat(output).st_size for output in outputs], limits)
    if not detail:
        size = os.fstat(stderr).st_size
        tail = os.pread(stderr, _DETAIL_BYTES, max(0, size - _DETAIL_BYTES))
        detail = tail.decode(errors="replace")
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
