"""One slot of the sandbox: a fork server, which runs one program at a time."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from vibelite.errors import SandboxError
from vibelite.rewards.sandbox_execution import Execution, Limits, judge

# A fork server imports for 0.3 s of CPU time; a busy machine gets much more.
_START_SECONDS = 60.0
# What a program's process may take beyond its deadline to start and to be reaped.
_SLACK_SECONDS = 30.0
_DETAIL_BYTES = 2000
# The package's own directory is on the server's path only while it imports itself from there.
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from vibelite.rewards.sandbox_server import serve; "
    "sys.path.pop(0); serve(int(sys.argv[1]), sys.argv[2].split())"
)


class Slot:
    """A fork server with the wanted layers, started again when it has failed.

    `close` may come from another thread while `run` waits for a program.
    """

    def __init__(self, layers: tuple[str, ...]) -> None:
        self._wanted = layers
        self.layers: list[str] = []
        self._server: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._errors = -1
        self._is_closed = False
        self._running = threading.Lock()
        self._ending = threading.Lock()

    def start(self) -> None:
        """Raises SandboxError if the server cannot be started, or a layer cannot be had."""
        with self._running:
            self._start()

    def _start(self) -> None:
        self._launch()
        report = self._receive(_START_SECONDS)
        if report is not None and "ready" in report:
            self.layers = report["ready"]
            return
        reason = report["error"] if report is not None else self._last_words()
        self._stop()
        raise SandboxError(f"the fork server does not start: {reason}")

    def run(self, source: str, stdin: bytes, function: str, limits: Limits) -> Execution:
        """Runs a program; a failure of the server is not the program's: it gets a second one.

        Raises SandboxError if that fails, too, or the slot is closed meanwhile.
        """
        reason = ""
        with self._running:
            for _ in range(2):
                if self._connection is None:
                    self._start()
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
                self._stop()
        raise SandboxError(f"programs cannot be started in the sandbox: {reason}")

    def close(self) -> None:
        """Ends the server, and with it the program that it runs, for good."""
        with self._ending:
            self._is_closed = True
            if self._server is not None:
                os.killpg(self._server.pid, signal.SIGKILL)
        with self._running:
            self._stop()

    def _launch(self) -> None:
        with self._ending:
            if self._is_closed:
                raise SandboxError("the sandbox was closed")
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            errors = os.memfd_create("stderr")
            try:
                self._server = _start_server(theirs.fileno(), errors, self._wanted)
            except OSError as error:
                ours.close()
                os.close(errors)
                raise SandboxError(f"the fork server does not start: {error}") from error
            finally:
                theirs.close()
            self._connection, self._errors = ours, errors

    def _stop(self) -> None:
        with self._ending:
            if self._server is None or self._connection is None:
                return
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()
            self._connection.close()
            os.close(self._errors)
            self._server = self._connection = None

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
        size = os.fstat(self._errors).st_size
        tail = os.pread(self._errors, _DETAIL_BYTES, max(0, size - _DETAIL_BYTES))
        return tail.decode(errors="replace").strip() or "no answer"


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
