"""The fork server of a sandbox: a clean interpreter that has imported what programs usually import,
and forks itself for each program. Every slot has one. It reads neither a program nor its input:
both are file descriptors that it passes on.

Imports the standard library alone, and only one thread ever runs in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import json
import os
import random
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vibelite.rewards import sandbox_confine as confine
from vibelite.rewards.sandbox_program import become_program

# Descriptors of a request, in this order.
NUM_DESCRIPTORS = 5  # source, stdin, stdout, stderr, result
# No descriptor of the server is higher, so that closing all of them is quick everywhere.
_MAX_DESCRIPTORS = 256
_CONNECTION = 3
# User ids that systemd's and the distributions' conventions leave free, and one range for
# containers that have only 16 bits of them.
_SPARE_USERS = ((65_536, 450_000), (60_600, 500))
_PRELOAD = """
abc argparse array ast base64 bisect bz2 calendar cmath codecs collections collections.abc
concurrent.futures concurrent.futures.thread contextlib copy csv ctypes ctypes.util dataclasses
datetime decimal difflib enum fractions functools glob hashlib heapq hmac html inspect io itertools
json linecache locale logging lzma math mmap multiprocessing numbers operator os pathlib pickle
platform pprint queue random re resource secrets select selectors shlex shutil signal site socket
sqlite3 statistics string stringprep struct subprocess tempfile textwrap threading time timeit
traceback types typing unicodedata uuid warnings weakref zipfile zlib _strptime encodings.idna
encodings.latin_1 encodings.ascii graphlib contextvars ipaddress tokenize
"""


def serve(descriptor: int, layers: list[str]) -> None:
    """Confines itself as far as `layers` say, reports "ready", then runs programs until the other
    end of the socket `descriptor` is closed.

    The report is {"ready": what is in force} or {"error": why a layer cannot be had}.
    """
    if descriptor != _CONNECTION:  # beyond _MAX_DESCRIPTORS where the parent has many
        os.dup2(descriptor, _CONNECTION, inheritable=False)
        os.close(descriptor)
    connection = socket.socket(fileno=_CONNECTION)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # whatever its parent's was
    try:
        server = _Server(connection, layers)
    except OSError as error:
        connection.send(json.dumps({"error": error.strerror}).encode())
        return
    connection.send(json.dumps({"ready": server.layers}).encode())
    server.run()


class _Server:
    """What is decided once: which layers, whose user id, where the root is."""

    def __init__(self, connection: socket.socket, layers: list[str]) -> None:
        self._connection = connection
        self.layers = list(layers)
        os.environ.clear()
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (_MAX_DESCRIPTORS, hard))
        # The kernel, when memory ends, is to end programs first.
        Path("/proc/self/oom_score_adj").write_text("1000")
        if "namespaces" in layers:
            confine.enter_namespaces()
            _continue_in_new_process_namespace()
        confine.share_one_arena()
        _preload()
        library = os.path.dirname(os.__file__)
        self._ruleset = confine.landlock_ruleset(library) if "landlock" in layers else None
        self._has_filter = "seccomp" in layers
        self._user = _spare_user()
        self._root = ""
        if self._user is not None:
            self.layers.append("own user")
        if _succeeds(lambda: os.chroot("/")):
            self.layers.append("own root directory")
            self._root = os.path.dirname(library)
            _move_imports(self._root)
        self._own_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * (
            os.sysconf("SC_PAGE_SIZE")
        )
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        gc.collect()
        gc.freeze()

    def run(self) -> None:
        """Runs one program for each request; returns when the sandbox lets go."""
        while True:
            message, descriptors, _, _ = socket.recv_fds(
                self._connection, 65536, NUM_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
            if not message:
                return
            request = json.loads(message)
            try:
                answer = self._run(request, descriptors)
            except OSError as error:
                answer = {"setup": error.strerror}
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
            if answer is None:
                return
            self._connection.send(json.dumps(answer).encode())

    def _run(self, request: dict[str, Any], descriptors: list[int]) -> dict[str, Any] | None:
        """Runs one program to its end or its deadline; None if the sandbox let go meanwhile."""
        max_processes = max(confine.running_threads(), 1024) + confine.MAX_THREADS
        if self._user is not None:
            max_processes = confine.MAX_THREADS
        report_read, report_write = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            self._become(request, descriptors, report_write, max_processes)
        os.close(report_write)
        with open(report_read, "rb") as report:
            setup = report.read(4096)
        began = time.monotonic()
        if setup != b"ready":
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return {"setup": setup.decode(errors="replace") or "ended before it was confined"}
        has_ended = self._wait(pid, began + request["seconds"])
        if not has_ended:
            os.kill(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
        ended = time.monotonic()
        if has_ended is None:
            return None
        return {
            "status": os.waitstatus_to_exitcode(status),
            "is_late": not has_ended,
            "seconds": ended - began,
            "cpu_seconds": usage.ru_utime + usage.ru_stime,
        }

    def _wait(self, pid: int, deadline: float) -> bool | None:
        """Whether the program ended before the deadline; None if the sandbox let go first. Leaves
        the process to be reaped.
        """
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        poll.register(self._connection, select.POLLHUP | select.POLLRDHUP)
        while True:
            flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
            if os.waitid(os.P_PID, pid, flags) is not None:
                return True
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                return False
            for ready, _ in poll.poll(remaining * 1000):
                if ready == self._connection.fileno():
                    return None
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)

    def _become(
        self, request: dict[str, Any], descriptors: list[int], report: int, max_processes: int
    ) -> None:
        """In the forked process: confines it and turns it into the program; never returns."""
        try:
            kept = [*descriptors, report, *([] if self._ruleset is None else [self._ruleset])]
            report, ruleset = _arrange(kept, keeps_result=bool(request["function"]))
            self._confine(request, ruleset, max_processes)
            os.write(report, b"ready")
            os.close(report)
        except BaseException as error:
            reason = error.strerror if isinstance(error, OSError) else repr(error)
            with contextlib.suppress(OSError):
                os.write(report, str(reason).encode())
            os._exit(1)
        become_program(request["function"])

    def _confine(self, request: dict[str, Any], ruleset: int | None, max_processes: int) -> None:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        if self._root:
            os.chroot(self._root)
        os.chdir("/")
        confine.limit_resources(
            seconds=request["cpu_seconds"],
            address_space=self._own_bytes + request["memory_bytes"],
            file_bytes=request["output_bytes"] + 1,
            max_processes=max_processes,
        )
        if self._user is not None:
            _become_user(self._user)
        confine.die_with_parent(signal.SIGKILL)
        confine.drop_privileges()
        if ruleset is not None:
            confine.landlock_restrict_self(ruleset)
            os.close(ruleset)
        if self._has_filter:
            confine.install_filter(allow_reading=ruleset is not None)


def _arrange(descriptors: list[int], *, keeps_result: bool) -> tuple[int, int | None]:
    """Puts source, stdin, stdout, stderr and result of `descriptors` at 4, 0, 1, 2 and 3, closes
    all others but the rest of the list, and returns where that now is: the report's pipe and the
    ruleset of Landlock.
    """
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 64) for descriptor in descriptors]
    source, stdin, stdout, stderr, result, report, *ruleset = moved
    for old, new in ((stdin, 0), (stdout, 1), (stderr, 2), (result, 3), (source, 4), (report, 5)):
        os.dup2(old, new)
    if ruleset:
        os.dup2(ruleset[0], 6)
    if not keeps_result:
        os.close(3)
    os.closerange(7 if ruleset else 6, _MAX_DESCRIPTORS)
    return 5, 6 if ruleset else None


def _spare_user() -> int | None:
    """A user id that nobody has, if this process may become it."""
    if os.geteuid() != 0:
        return None
    for first, count in _SPARE_USERS:
        user = first + random.SystemRandom().randrange(count)
        if _succeeds(lambda user=user: _become_user(user)):
            return user
    return None


def _become_user(user: int) -> None:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def _succeeds(attempt: Callable[[], None]) -> bool:
    """Whether the kernel permits it, in a process that ends with it, and then still permits this
    process to end that one.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        with contextlib.suppress(OSError):
            attempt()
            status = 0
        os._exit(status)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    may_end = False
    with contextlib.suppress(PermissionError):  # of another user, without CAP_KILL
        os.kill(pid, 0)
        may_end = True
    return os.waitpid(pid, 0)[1] == 0 and may_end


def _continue_in_new_process_namespace() -> None:
    """Returns in a child that is the first process of the new namespace: with it, all end."""
    pid = os.fork()
    if pid == 0:
        confine.die_with_parent(signal.SIGKILL)
        return
    os.closerange(3, _MAX_DESCRIPTORS)
    os.waitpid(pid, 0)
    os._exit(0)


def _preload() -> None:
    for name in _PRELOAD.split():
        importlib.import_module(name)
    import site

    site.setquit()  # `exit` and `quit`, which programs call
    site.setcopyright()
    for name in [name for name in sys.modules if name.partition(".")[0] == "vibelite"]:
        del sys.modules[name]


def _move_imports(root: str) -> None:
    """Lets imports find the standard library once `root` is the root directory."""
    packages = [vars(module).get("__path__") for module in sys.modules.values()]
    for paths in (sys.path, *(paths for paths in packages if isinstance(paths, list))):
        paths[:] = [path.removeprefix(root) for path in paths if path.startswith(root)]
    sys.path_importer_cache.clear()
