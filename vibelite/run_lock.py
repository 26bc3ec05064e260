"""One process at a time in a run directory, on this machine or on any other that shares its disk.

Two things must agree. The file's lock is the system's, which takes it back however its holder ends;
but not every shared file system passes locks on. So the file also says who holds it, and its holder
counts up in it for as long as it lives: a record that nobody counts up in is stale.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import IO

from vibelite.errors import RecipeError
from vibelite.storage import storage_errors

LOCK_NAME = ".lock"
SECONDS_PER_BEAT = 15.0
# What another machine's record must stand still before it is stale: some beats may be late.
SECONDS_TO_STALE = 60.0
# Beats are written over one another, so that a full disk does not stop them.
RECORD_BYTES = 512
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock: enough to tell whether it still lives."""

    pid: int
    started: int
    """Clock ticks from the machine's start to the process's; a pid may be used again."""
    host: str
    boot: str
    """The machine's id for the time since it was last started."""
    beats: int = 0

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@contextmanager
def locked(run_dir: Path, *, wait: Callable[[float], None] = time.sleep) -> Iterator[None]:
    """Holds the run directory's lock inside; RecipeError, which names its holder, if it is held. A
    stale one is taken over with a note; `wait` passes the seconds that show whether another
    machine's is.
    """
    path = run_dir / LOCK_NAME
    with storage_errors(run_dir), open(path, "a+", encoding="utf-8") as file:
        has_system_lock = take_system_lock(file, run_dir)
        holder = read_holder(path)
        if holder is not None:
            if is_alive(holder, path, wait):
                raise in_use(run_dir, holder)
            note(f"{run_dir}: taking over from {holder}, which ended without releasing its lock")
        me = this_process()
        write_holder(path, me)
        if not has_system_lock:  # two may have written at the same time; the last one stays
            wait(1.0)
            if read_holder(path) != me:
                raise in_use(run_dir, read_holder(path))
        try:
            with beating(path, me):
                yield
        finally:
            file.truncate(0)


def take_system_lock(file: IO[str], run_dir: Path) -> bool:
    """Whether the file system has locks; RecipeError if another process holds this one."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise in_use(run_dir, read_holder(Path(file.name))) from error
    except OSError as error:
        if error.errno in WITHOUT_LOCKS:
            return False
        raise
    return True


def in_use(run_dir: Path, holder: Holder | None) -> RecipeError:
    who = f"{holder} (kill {holder.pid}; it saves first)" if holder else "another process"
    return RecipeError(f"{run_dir}: in use by {who}; wait for it, or use another --run-dir")


def is_alive(holder: Holder, path: Path, wait: Callable[[float], None]) -> bool:
    """Whether the process that a record names can still write to the run directory."""
    me = this_process()
    if holder.boot == me.boot and holder.host == me.host:
        return start_of(holder.pid) == holder.started
    if holder.host == me.host:
        return False  # this machine was started again since
    note(
        f"{path.parent}: last used by {holder}; looking {SECONDS_TO_STALE:g} s for a sign of life "
        f"(if that machine is gone, remove {path} to go on at once)"
    )
    wait(SECONDS_TO_STALE)
    return read_holder(path) != holder


def is_in_use(run_dir: Path) -> bool:
    """Whether a process holds the run's lock, to all appearance: nobody is waited for, so another
    machine's counts as alive until its record has stood still for SECONDS_TO_STALE.
    """
    path, me = run_dir / LOCK_NAME, this_process()
    holder = read_holder(path)
    if holder is None:
        return False
    if holder.host == me.host:
        return holder.boot == me.boot and start_of(holder.pid) == holder.started
    return time.time() - path.stat().st_mtime < SECONDS_TO_STALE


def this_process() -> Holder:
    pid, boot = os.getpid(), Path("/proc/sys/kernel/random/boot_id")
    boot_id = boot.read_text(encoding="utf-8").strip() if boot.exists() else ""
    return Holder(pid, start_of(pid) or 0, socket.gethostname(), boot_id)


def start_of(pid: int) -> int | None:
    """When a process was started, in clock ticks since the machine was; None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in brackets, may hold anything; field 22 of proc(5) is the 20th after it.
    return int(text.rpartition(")")[2].split()[19])


def read_holder(path: Path) -> Holder | None:
    """Who the file says holds it; None if it was released, or if its writer died writing it."""
    try:
        return Holder(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, FileNotFoundError):
        return None


def write_holder(path: Path, holder: Holder) -> None:
    """In place and of one length, so that it needs no room that the file has not got."""
    text = json.dumps(asdict(holder)).ljust(RECORD_BYTES - 1) + "\n"
    with open(path, "r+b", buffering=0) as file:
        file.write(text.encode())
        os.fsync(file.fileno())


@contextmanager
def beating(path: Path, me: Holder) -> Iterator[None]:
    """Counts up in the record, from another thread."""
    ended = threading.Event()

    def beat_until_ended() -> None:
        for beats in count(1):
            if ended.wait(SECONDS_PER_BEAT):
                return
            write_holder(path, replace(me, beats=beats))

    thread = threading.Thread(target=beat_until_ended, name="run lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def note(message: str) -> None:
    print(f"note: {message}", file=sys.stderr)
