"""One process at a time in a run directory; a lock that nobody holds any more is seen as stale."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import vibelite.run_lock
from vibelite.errors import RecipeError
from vibelite.run_lock import (
    LOCK_NAME,
    RECORD_BYTES,
    SECONDS_TO_STALE,
    beating,
    locked,
    read_holder,
    start_of,
    this_process,
    write_holder,
)

HOLDER = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from vibelite.run_lock import locked\n"
    "with locked(Path(sys.argv[1])):\n"
    "    print('locked', flush=True)\n"
    "    time.sleep(60)\n"
)


def leave(directory: Path, holder) -> Path:
    """The lock file as a process that ended without a word left it."""
    path = directory / LOCK_NAME
    path.touch()
    write_holder(path, holder)
    return path


def never(seconds: float) -> None:
    raise AssertionError("nothing to wait for")


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path, capsys):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "locked\n"
    with pytest.raises(RecipeError, match=rf"in use by process {holder.pid} on "), locked(tmp_path):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(tmp_path, wait=never):
        assert read_holder(tmp_path / LOCK_NAME) == this_process()
    assert f"taking over from process {holder.pid} on " in capsys.readouterr().err


def test_a_lock_is_released_however_its_holder_ends(tmp_path, capsys):
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    assert (tmp_path / LOCK_NAME).read_text() == ""
    with locked(tmp_path, wait=never):
        pass
    assert capsys.readouterr().err == "", "nothing was taken over"


@pytest.mark.parametrize("what", ["another process of that number", "before a restart"])
def test_records_of_this_machines_dead_are_stale_at_once(tmp_path, capsys, what):
    me = this_process()
    dead = replace(me, started=me.started - 1)
    if what == "before a restart":
        dead = replace(me, boot="another")
    leave(tmp_path, dead)
    with locked(tmp_path, wait=never):
        pass
    assert f"taking over from process {me.pid} on {me.host}" in capsys.readouterr().err


def test_another_machines_record_is_stale_when_it_stands_still(tmp_path, capsys):
    leave(tmp_path, replace(this_process(), pid=7, host="elsewhere", boot="another"))
    waited = []
    with locked(tmp_path, wait=waited.append):
        pass
    assert waited == [SECONDS_TO_STALE]
    first, second = capsys.readouterr().err.splitlines()
    assert "last used by process 7 on elsewhere; looking 60 s for a sign of life" in first
    assert f"remove {tmp_path / LOCK_NAME} to go on at once" in first
    assert "taking over from process 7 on elsewhere" in second


def test_another_machines_record_is_alive_when_it_counts_up(tmp_path):
    other = replace(this_process(), pid=7, host="elsewhere", boot="another")
    path = leave(tmp_path, other)

    def wait(seconds: float) -> None:
        write_holder(path, replace(other, beats=1))

    expected = pytest.raises(RecipeError, match="in use by process 7 on elsewhere")
    with expected, locked(tmp_path, wait=wait):
        pass


def test_without_the_systems_locks_the_record_alone_decides(tmp_path, monkeypatch):
    def refuse(file, flags):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    parent = os.getppid()
    started = start_of(parent)
    assert started is not None
    leave(tmp_path, replace(this_process(), pid=parent, started=started))
    with pytest.raises(RecipeError, match=f"in use by process {parent} on "), locked(tmp_path):
        pass
    (tmp_path / LOCK_NAME).unlink()
    path, other = tmp_path / LOCK_NAME, replace(this_process(), pid=7, host="elsewhere")
    expected = pytest.raises(RecipeError, match="in use by process 7")  # which wrote a moment later
    with expected, locked(tmp_path, wait=lambda _: write_holder(path, other)):
        pass


def test_a_record_that_was_torn_is_nobodys(tmp_path):
    (tmp_path / LOCK_NAME).write_text('{"pid": 7, "sta')
    with locked(tmp_path, wait=never):
        pass


def test_the_holder_counts_up_in_place(tmp_path, monkeypatch):
    monkeypatch.setattr(vibelite.run_lock, "SECONDS_PER_BEAT", 0.01)
    me = this_process()
    path = leave(tmp_path, me)
    with beating(path, me):
        while (holder := read_holder(path)) is None or holder.beats < 3:
            pass
    assert path.stat().st_size == RECORD_BYTES
    assert replace(holder, beats=0) == me
