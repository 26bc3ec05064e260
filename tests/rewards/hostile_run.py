"""Runs the hostile programs in a sandbox and reports, as JSON, how each ended and what was left.

A program of its own, for the interpreter and the user that the tests choose: it needs the standard
library and the sandbox's files, which are next to it. The tests read its report.
"""

import ctypes
import json
import os
import re
import shutil
import socket
import struct
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vibelite.errors import SandboxError
from vibelite.rewards.sandbox import Limits, Sandbox

NUM_SANDBOXES = 2
MEMORY_BYTES, OUTPUT_BYTES = 256 << 20, 1 << 20
# Enough on a busy machine for all that are to end by themselves, and for none of the others.
SECONDS, SECONDS_OF_ENDLESS = 20.0, 0.3
SPARE_USERS = ((60_600, 61_100), (65_536, 515_536))
ROOT = Path(__file__).resolve().parent

# x86-64 and arm64 numbers of unshare, setns and landlock_create_ruleset; of clone and clone3.
_CALLS = {"x86_64": (272, 308, 444, 56, 435, 157), "aarch64": (97, 268, 444, 220, 435, 167)}
_LOAD, _JEQ, _JSET, _RETURN, _ALLOW, _ERRNO = 0x20, 0x15, 0x45, 0x06, 0x7FFF0000, 0x00050000
_EPERM, _EINVAL, _ENOSYS = 1, 22, 38
# All CLONE_NEW* flags but CLONE_NEWTIME, which lies in the byte of the signal.
_NEW_FLAGS = 0x7E020000
# What container engines leave to root: chown, dac_override, fowner, fsetid, kill, setgid, setuid,
# setpcap, net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap.
_CONTAINER = (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31)
_KILL = 5


def refuse(layers: list[str]) -> None:
    """Makes the kernel refuse layers of the sandbox to this process and all that it starts."""
    unshare, setns, landlock, clone, clone3, prctl = _CALLS[os.uname().machine]
    program = [(_LOAD, 0, 0, 0)]
    if "namespaces" in layers:  # as in a container
        for number, code in ((unshare, _EPERM), (setns, _EPERM), (clone3, _ENOSYS)):
            program += [(_JEQ, 0, 1, number), (_RETURN, 0, 0, _ERRNO | code)]
        program += [(_JEQ, 0, 3, clone), (_LOAD, 0, 0, 16), (_JSET, 0, 1, _NEW_FLAGS)]
        program += [(_RETURN, 0, 0, _ERRNO | _EPERM), (_LOAD, 0, 0, 0)]
    if "landlock" in layers:  # as on an old kernel
        program += [(_JEQ, 0, 1, landlock), (_RETURN, 0, 0, _ERRNO | _ENOSYS)]
    if "seccomp" in layers:  # PR_SET_SECCOMP
        program += [(_JEQ, 0, 3, prctl), (_LOAD, 0, 0, 16), (_JEQ, 0, 1, 22)]
        program += [(_RETURN, 0, 0, _ERRNO | _EINVAL)]
    if "namespaces" in layers and os.geteuid() == 0:
        keep_capabilities([bit for bit in _CONTAINER if bit != _KILL or "kill" not in layers])
    program += [(_RETURN, 0, 0, _ALLOW)]
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    head = struct.pack("HxxxxxxP", len(program), address := _address(code))
    libc = ctypes.CDLL(None)
    assert address and libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, head) == 0


def keep_capabilities(bits: list[int]) -> None:
    """Gives up all others; no_new_privs, which is set next, keeps them from coming back."""
    mask = sum(1 << bit for bit in bits)
    header, data = struct.pack("Ii", 0x20080522, 0), struct.pack("6I", mask, mask, 0, 0, 0, 0)
    assert ctypes.CDLL(None).capset(header, data) == 0


_kept: list[Any] = []


def _address(code: bytes) -> int:
    _kept.append(ctypes.create_string_buffer(code, len(code)))
    return ctypes.addressof(_kept[-1])


class World:
    """What hostile programs would like to reach, and whether any of them did."""

    def __init__(self, token: str) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="vibelite-world-"))
        self.directory.chmod(0o777)  # it is the sandbox that has to keep programs out
        self.secret = self.directory / "secret"
        self.secret.write_text(token)
        self.secret.chmod(0o666)
        self._before = self._state()
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self._port = self._tcp.getsockname()[1]
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", self._port))
        self._abstract_name = f"vibelite-world-{os.getpid()}"
        self._abstract = _unix_listener("\0" + self._abstract_name)
        self._unix_path = Path(tempfile.gettempdir(), self._abstract_name)
        self._unix = _unix_listener(str(self._unix_path))
        self._unix_path.chmod(0o777)
        self._objects = _system_v_objects()

    def describe(self) -> bytes:
        """One line of JSON, the standard input of every program."""
        described = {
            "secret": str(self.secret),
            "directory": str(self.directory),
            "parent": os.getpid(),
            "repository": str(ROOT),
            "port": self._port,
            "unix": str(self._unix_path),
            "abstract": self._abstract_name,
        }
        return json.dumps(described).encode()

    def changes(self) -> list[str]:
        """What programs changed, made, or reached."""
        found = [] if self._state() == self._before else ["the world's directory"]
        for name, listener in (
            ("tcp", self._tcp),
            ("udp", self._udp),
            ("unix", self._unix),
            ("abstract", self._abstract),
        ):
            listener.setblocking(False)
            try:
                found.append(f"{name}: {listener.recv(9) if name == 'udp' else listener.accept()}")
            except BlockingIOError:
                listener.close()
        new = _system_v_objects() - self._objects
        return found + [f"System V: {row}" for row in sorted(new)] + _strays()

    def remove(self) -> None:
        self._unix_path.unlink()
        shutil.rmtree(self.directory)

    def _state(self) -> list[Any]:
        return [
            (path.name, path.stat()[:7], path.stat().st_mtime_ns, path.read_bytes())
            for path in sorted(self.directory.iterdir())
        ]


def _unix_listener(name: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(name)
    listener.listen()
    return listener


def _system_v_objects() -> set[str]:
    """Key and id of each message queue, semaphore set and shared memory of the machine."""
    return {
        f"{path.name} {line.split()[:2]}"
        for path in Path("/proc/sysvipc").iterdir()
        for line in path.read_text().splitlines()[1:]
    }


def _strays() -> list[str]:
    """Files that only a hostile program can have made."""
    library = os.path.dirname(os.__file__)
    directories = ["/", "/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", library, os.getcwd()]
    found = []
    for directory in {*directories, tempfile.gettempdir(), os.path.expanduser("~")}:
        if not os.access(directory, os.R_OK):
            continue
        for entry in os.scandir(directory):
            try:
                owner = entry.stat(follow_symlinks=False).st_uid
            except FileNotFoundError:  # another process's, gone since it was listed
                continue
            is_of_slot = any(first <= owner < end for first, end in SPARE_USERS)
            if is_of_slot or re.match("vibelite[-_]hostile", entry.name):
                found.append(entry.path)
    return found


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path("/proc", entry, "stat").read_text()
            except OSError:
                continue
            parents[int(entry)] = int(stat.rpartition(")")[2].split()[1])
    found, new = [], [pid]
    while new:
        new = [child for child, parent in parents.items() if parent in new]
        found += new
    return found


def hostile_programs() -> dict[str, str]:
    """Name and source of every program: the files of hostile/, and each of the attempts."""
    programs = {path.stem: path.read_text() for path in sorted((ROOT / "hostile").glob("*.py"))}
    attempts = (ROOT / "hostile_attempts.py").read_text()
    for name in re.findall(r'^    "(\w+)": ', attempts, re.MULTILINE):
        assert name not in programs, name
        programs[name] = f'{attempts}\nattempt("{name}")\n'
    return programs


def expectation(source: str) -> dict[str, str]:
    """The first comments of a program: outcome, stdout, function, seconds."""
    return dict(re.findall(r"^# (outcome|stdout|function|seconds): (.*)$", source, re.MULTILINE))


def run_program(sandbox: Sandbox, source: str, stdin: bytes) -> dict[str, Any]:
    expected = expectation(source)
    seconds = SECONDS_OF_ENDLESS if expected["outcome"] == "time_limit" else SECONDS
    execution = sandbox.run(
        source,
        stdin=b"" if "function" in expected else stdin,
        function=expected.get("function", ""),
        limits=Limits(float(expected.get("seconds", seconds)), MEMORY_BYTES, OUTPUT_BYTES),
    )
    return {
        "outcome": execution.outcome,
        "stdout": execution.stdout[:1000].decode(errors="replace"),
        "result": execution.result[:1000].decode(errors="replace"),
        "detail": execution.detail,
        "seconds": execution.seconds,
        "output_bytes": len(execution.stdout),
    }


def run_sibling(sandbox: Sandbox, is_over: threading.Event) -> list[str]:
    """Harmless programs in another sandbox all the while: "fine", or what went wrong."""
    ends = []
    while not is_over.wait(0.05):
        execution = sandbox.run("print(sum(range(int(input()))))", stdin=b"1000")
        is_fine = (execution.outcome, execution.stdout) == ("exit", b"499500\n")
        ends.append("fine" if is_fine else repr(execution))
    return ends


def run_all(sandbox: Sandbox, sibling: Sandbox, stdin: bytes) -> dict[str, Any]:
    is_over = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        siblings = threads.submit(run_sibling, sibling, is_over)
        try:
            programs = {
                name: run_program(sandbox, source, stdin)
                for name, source in hostile_programs().items()
            }
        finally:
            is_over.set()
        return {"programs": programs, "siblings": siblings.result()}


def end_of_children() -> list[int]:
    """Waits for this process's children, also those whose own parent ended; returns survivors."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return []
        if pid == 0:
            time.sleep(0.01)
    return descendants(os.getpid())


def main(setting: dict[str, Any]) -> dict[str, Any]:
    """`setting`: "refuse", layers that the kernel is to refuse; "runs", whether to run programs."""
    refuse(setting["refuse"])
    assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # orphans become children of this process
    try:
        sandbox, sibling = Sandbox(), Sandbox()
    except SandboxError as error:
        return {"refused": str(error), "survivors": end_of_children()}
    report: dict[str, Any] = {"tier": sandbox.tier, "layers": sandbox.layers}
    with sandbox, sibling:
        if setting["runs"]:
            world = World(os.environ["VIBELITE_TEST_TOKEN"])
            try:
                report |= run_all(sandbox, sibling, world.describe())
                report["changes"] = world.changes()
            finally:
                world.remove()
            report["processes"] = len(descendants(os.getpid()))
    return report | {"survivors": end_of_children()}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
