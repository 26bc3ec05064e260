"""Hostile programs that a sandbox must withstand before it is used: attempts, not version numbers.

Each attempt is one thing that a program must not be able to do. It runs as a call of `probe` in the
sandbox under test; what it reports is compared here.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

from vibelite.rewards.sandbox_slot import Limits, Outcome, Slot

_PROBES = """
import ctypes, os, signal, socket

def read_secret(): return open(SECRET).read()
def write_file(): return open(SCRATCH, "w").write("x")
def delete_file(): return os.unlink(SECRET)
def rename_file(): return os.rename(SECRET, SECRET + "2")
def truncate_file(): return os.truncate(SECRET, 0)
def chmod_file(): return os.chmod(SECRET, 0)
def read_process_of_others(): return open(f"/proc/{PARENT}/environ", "rb").read()
def read_own_environment(): return open("/proc/self/environ", "rb").read()
def list_root(): return os.listdir("/etc")
def internet_socket(): return socket.socket(socket.AF_INET, socket.SOCK_STREAM)
def unix_socket(): return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
def signal_sandbox(): return os.kill(PARENT, 0)
def signal_server(): return os.kill(os.getppid(), 0)
def signal_all(): return os.kill(-1, 0)
def fork(): return os.fork() or os._exit(0)
def execute(): return os.execv("/bin/true", ["true"])
def trace(): return 1 / (ctypes.CDLL(None).ptrace(16, PARENT, 0, 0) + 1)
def memory_file(): return os.memfd_create("x")

def probe():
    done = []
    for attempt in (read_secret, write_file, delete_file, rename_file, truncate_file, chmod_file,
                    read_process_of_others, read_own_environment, list_root, internet_socket,
                    unix_socket, signal_sandbox, signal_server, signal_all, fork, trace,
                    memory_file, execute):
        try:
            attempt()
        except (OSError, ZeroDivisionError):
            continue
        done.append(attempt.__name__)
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
        execution = slot.run(head + _PROBES, b"", "probe", Limits())
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
        execution = slot.run(source, b"", "", limits)
        is_late = expected != "time_limit" and execution.seconds >= limits.seconds
        if execution.outcome != expected or is_late:
            how = "only its time limit" if is_late else execution.outcome
            return f"a program beyond its {expected} ended with {how}"
    return ""
