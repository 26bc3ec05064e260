"""Runs Python programs that nobody has read: one short-lived, confined process for each.

A program can read the Python standard library and its own standard input, write to its own bounded
output, and end; nothing else of the machine is reachable. How strongly that is enforced is the
tier, and a self-test at the start picks the strongest one that holds on this machine.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from vibelite.errors import SandboxError
from vibelite.rewards.sandbox_slot import Execution, Limits, Outcome, Slot

__all__ = ["Execution", "Limits", "Outcome", "Sandbox", "describe_tier"]

# Strongest first; what each asks of the kernel. All have limits of resources; a user id of their
# own where the sandbox is started by root; and, where root or a user namespace permits, a root
# directory that holds the standard library alone.
TIERS: dict[str, tuple[str, ...]] = {
    "namespaces": ("namespaces", "landlock", "seccomp"),
    "landlock": ("landlock", "seccomp"),
    "seccomp": ("seccomp",),
}

# Hostile programs that a tier must withstand before it is used: attempts, not version numbers. Each
# is one thing that a program must not be able to do.
_PROBES = """
import ctypes, os, signal, socket

ATTEMPTS = {
    "read a file": lambda: open(SECRET).read(),
    "write a file": lambda: open(SCRATCH, "w").write("x"),
    "delete a file": lambda: os.unlink(SECRET),
    "rename a file": lambda: os.rename(SECRET, SECRET + "2"),
    "truncate a file": lambda: os.truncate(SECRET, 0),
    "change a file's mode": lambda: os.chmod(SECRET, 0),
    "read another process": lambda: open(f"/proc/{PARENT}/environ", "rb").read(),
    "read its own environment": lambda: open("/proc/self/environ", "rb").read(),
    "list the root": lambda: os.listdir("/etc"),
    "open an internet socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "open a unix socket": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
    "signal the sandbox": lambda: os.kill(PARENT, 0),
    "signal its server": lambda: os.kill(os.getppid(), 0),
    "signal all": lambda: os.kill(-1, 0),
    "fork": lambda: os.fork() or os._exit(0),
    "trace the sandbox": lambda: 1 / (ctypes.CDLL(None).ptrace(16, PARENT, 0, 0) + 1),
    "make a file in memory": lambda: os.memfd_create("x"),
    "execute a program": lambda: os.execv("/bin/true", ["true"]),
}

def probe():
    done = []
    for name, attempt in ATTEMPTS.items():
        try:
            attempt()
        except (OSError, ZeroDivisionError):
            continue
        done.append(name)
    return done
"""


# A quarter of GiB, and no more output than a few pages.
_LIMITS = Limits(seconds=0.2, memory_bytes=1 << 28, output_bytes=1 << 14)
# Programs that sleep once they are beyond a limit: it must have stopped them, not the clock.
_SLEEP = "import time; time.sleep(60)"
_EXCESSES: dict[Outcome, str] = {
    "memory_limit": f"held = bytes(1 << 30); {_SLEEP}",
    "output_limit": f"import os; [os.write(1, bytes(1 << 15)) for _ in range(2)]; {_SLEEP}",
    "time_limit": "while True: pass",
}


class Sandbox(Slot):
    """A fork server in the strongest tier that holds on this machine.

    >>> with Sandbox() as sandbox:
    ...     sandbox.run("print(int(input()) + 1)", stdin=b"41").stdout
    b'42\\n'
    """

    def __init__(self, tiers: Iterable[str] = tuple(TIERS)) -> None:
        """Starts the server and tests it with hostile programs; `tiers` are the ones to try.

        Raises SandboxError where no tier holds.
        """
        reasons = []
        for tier in tiers:
            super().__init__(TIERS[tier])
            self.tier = tier
            try:
                self.start()
                broken = self_test(self)
            except SandboxError as error:
                broken = str(error)
            if not broken:
                return
            self.close()
            reasons.append(f"{tier}: {broken}")
        raise SandboxError(
            f"programs cannot be confined on this machine ({'; '.join(reasons)}); use a machine or "
            "container that allows seccomp filters"
        )


def describe_tier() -> str:
    """One line on how programs are confined on this machine; SandboxError if they are not."""
    with Sandbox() as sandbox:
        return f"{sandbox.tier} ({', '.join(sandbox.layers)})"


def self_test(slot: Slot) -> str:
    """What the slot's layers failed to prevent, or ""; raises SandboxError if it runs nothing."""
    return _broken_walls(slot) or _broken_limits(slot)


def _broken_walls(slot: Slot) -> str:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o777)  # it is the sandbox that has to keep programs out
        secret = Path(directory, "secret")
        secret.write_text("secret")
        os.chmod(secret, 0o666)
        head = f"SECRET, SCRATCH, PARENT = {str(secret)!r}, {directory!r} + '/new', {os.getpid()}\n"
        execution = slot.run(head + _PROBES, function="probe")
        left = sorted(path.name for path in Path(directory).iterdir())
        if left != ["secret"] or secret.read_text() != "secret":
            return f"a program changed files: {left}"
    if execution.outcome != "exit":
        return f"the self-test ended with {execution.outcome}: {execution.detail}"
    if not execution.result:
        return "a program could execute another program"
    done = json.loads(execution.result)
    return f"a program could {', '.join(done)}" if done else ""


def _broken_limits(slot: Slot) -> str:
    for expected, source in _EXCESSES.items():
        limits = _LIMITS if expected == "time_limit" else replace(_LIMITS, seconds=10.0)
        execution = slot.run(source, limits=limits)
        is_late = expected != "time_limit" and execution.seconds >= limits.seconds
        if execution.outcome != expected or is_late:
            how = "only its time limit" if is_late else execution.outcome
            return f"a program beyond its {expected} ended with {how}"
    return ""
