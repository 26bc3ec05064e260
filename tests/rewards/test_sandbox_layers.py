"""Each layer of the sandbox by itself: what it refuses where no other layer is in force.

Together they cover each other, so that a hostile program does not show that one of them is missing.
"""

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Applies one layer to a process of its own, then reports the error number of each attempt; 0 = it
# succeeded.
_PROGRAM = """
import json, os, socket, sys
from vibelite.rewards import sandbox_confine as confine

secret, port, parent = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
library = os.path.dirname(os.__file__)


def namespace(name):
    try:
        return os.readlink(f"/proc/self/ns/{name}")
    except OSError:  # of processes to come, before there is one
        return None


def connect():
    socket.create_connection(("127.0.0.1", port), timeout=10).close()


def listen():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))


attempts = {
    "read": lambda: os.open(secret, os.O_RDONLY),
    "read the library": lambda: os.open(os.__file__, os.O_RDONLY),
    "write": lambda: os.open(secret, os.O_WRONLY),
    "read and write": lambda: os.open(secret, os.O_RDWR),
    "create": lambda: os.open(secret + "-new", os.O_RDONLY | os.O_CREAT),
    "truncate": lambda: os.open(secret, os.O_RDONLY | os.O_TRUNC),
    "open a socket": lambda: socket.socket().close(),
    "connect": connect,
    "listen": listen,
    "signal": lambda: os.kill(parent, 0),
}
kinds = ("ipc", "net", "pid_for_children", "uts")
before = [namespace(kind) for kind in kinds]
LAYER
print(json.dumps([kind for kind, old in zip(kinds, before) if namespace(kind) != old]))
report = {}
for name, attempt in attempts.items():
    try:
        attempt()
        report[name] = 0
    except OSError as error:
        report[name] = error.errno
print(json.dumps(report))
"""
_NAMESPACES = "confine.enter_namespaces()"
_LANDLOCK = """ruleset = confine.landlock_ruleset(library)
confine.drop_privileges()
confine.landlock_restrict_self(ruleset)"""
_SECCOMP = """confine.drop_privileges()
confine.install_filter(allow_reading=True)"""


@pytest.fixture(scope="module")
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("secret")
    return path


def attempts_under(
    layer: str, secret: Path, listener: socket.socket
) -> tuple[list[str], dict[str, int]]:
    """The namespaces that a program under one layer has left, or can see no more, and the error
    number of each of its attempts.
    """
    port, parent = str(listener.getsockname()[1]), str(os.getpid())
    command = [sys.executable, "-c", _PROGRAM.replace("LAYER", layer), str(secret), port, parent]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    left, report = map(json.loads, ended.stdout.splitlines())
    return left, report


def test_without_a_layer_every_attempt_succeeds(secret: Path, listener: socket.socket) -> None:
    """Else the others would not show that a layer refuses anything."""
    left, report = attempts_under("", secret, listener)
    assert left == []
    assert {name for name, number in report.items() if number} == set()


def test_namespaces_alone_leave_no_network(secret: Path, listener: socket.socket) -> None:
    left, report = attempts_under(_NAMESPACES, secret, listener)
    assert left == ["ipc", "net", "pid_for_children", "uts"]
    assert report["connect"] == errno.ENETUNREACH
    assert report["open a socket"] == report["write"] == 0, "which other layers refuse"


def test_landlock_alone_refuses_files_tcp_and_signals(
    secret: Path, listener: socket.socket
) -> None:
    _, report = attempts_under(_LANDLOCK, secret, listener)
    allowed = {name for name, number in report.items() if number == 0}
    assert allowed == {"read the library", "open a socket"}
    assert {report[name] for name in ("read", "write", "create", "connect", "listen")} == {
        errno.EACCES
    }
    assert report["signal"] == errno.EPERM


def test_the_filter_alone_refuses_every_way_to_write(secret: Path, listener: socket.socket) -> None:
    """It lets files be opened for reading, where Landlock says which."""
    _, report = attempts_under(_SECCOMP, secret, listener)
    assert {name for name, number in report.items() if number == 0} == {"read", "read the library"}
    assert set(report.values()) == {0, errno.EPERM}
    assert secret.read_text() == "secret"
    assert list(secret.parent.iterdir()) == [secret]
