"""A full disk and a read-only one, real ones: one message, the right exit code, nothing lost that
was complete, and the same command goes on once there is room.
"""

from __future__ import annotations

import errno
import re
import resource
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import vibelite.training.checkpoint
from tests.survival import at_step, outcome, remount, run_command, small_disk
from vibelite.errors import DiskFull, RecipeError, StorageError
from vibelite.run_dir import append_jsonl, read_json, read_jsonl, write_json_atomic
from vibelite.storage import require_writable, storage_errors, system_error
from vibelite.telemetry.ledger import Ledger
from vibelite.training.checkpoint import saved_steps

MEGABYTE = 2**20
NO_MARGIN = "checkpoint.free_gib=0"


def fill(disk: Path) -> Path:
    """Takes every byte that is left."""
    ballast = disk / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        try:
            for size in (4096, 1):
                while file.write(b"\0" * size):
                    pass
        except OSError as error:
            assert error.errno == errno.ENOSPC
    return ballast


def test_a_run_that_outgrows_its_disk_stops_before_it_writes_and_goes_on_with_room(
    tmp_path, capsys, whole
):
    with small_disk(tmp_path / "disk", 7 * MEGABYTE // 4) as disk:
        run_dir = disk / "run"
        ended = run_command(capsys, run_dir, NO_MARGIN)
        assert ended.exit_code == 5
        assert re.search(
            r"no room for a (model|training state): it needs [\d,]+ bytes and 0 are to stay free, "
            r"but only [\d,]+ are free\.",
            ended.message,
        )
        assert str(run_dir) in ended.message and "run the same command" in ended.message
        (resume,) = run_dir.glob("stages/*/resume")
        (last,) = saved_steps(resume)[-1:]
        assert last >= 1 and not list(run_dir.rglob("*.tmp"))
        remount(disk, f"size={8 * MEGABYTE}")
        assert run_command(capsys, run_dir, NO_MARGIN).exit_code == 0
        assert outcome(run_dir) == whole


@pytest.mark.parametrize("what", ["the records of a step", "a training state", "a model"])
def test_a_disk_that_fills_while_it_is_written_loses_nothing_complete(
    tmp_path, capsys, whole, what, monkeypatch
):
    with small_disk(tmp_path / "disk", 8 * MEGABYTE) as disk:
        run_dir = disk / "run"
        if what == "the records of a step":
            with at_step(3, lambda: fill(disk)):
                ended = run_command(capsys, run_dir, NO_MARGIN)
        else:
            # Between the look at the free space and the write: another program took it.
            module, name = vibelite.training.checkpoint, "require_free"
            require_free = module.require_free

            def check_then_fill(path, *arguments, **options):
                require_free(path, *arguments, **options)
                if options["what"] == what and "mgpo" in str(path):
                    fill(disk)

            with monkeypatch.context() as patch:
                patch.setattr(module, name, check_then_fill)
                ended = run_command(capsys, run_dir, NO_MARGIN)
        assert ended.exit_code == 5, ended.stderr
        # What was being written beside the step is dropped, and leaves its room.
        full = r"the disk is full \(No space left on device; [\d,]+ bytes free\)"
        assert re.search(full, ended.message), ended.message
        assert not list(run_dir.rglob("*.tmp"))
        assert "What was complete before is untouched" in ended.message
        (disk / "ballast").unlink()
        assert run_command(capsys, run_dir, NO_MARGIN).exit_code == 0
        assert outcome(run_dir) == whole


def test_a_read_only_directory_is_refused_before_any_work(tmp_path, capsys, whole):
    with small_disk(tmp_path / "disk", 8 * MEGABYTE) as disk:
        run_dir = disk / "run"
        with at_step(2, lambda: signal.raise_signal(signal.SIGTERM)):
            assert run_command(capsys, run_dir, NO_MARGIN).exit_code == 75
        before = sorted((path, path.stat().st_mtime_ns) for path in run_dir.rglob("*"))
        remount(disk, "ro")
        for directory in (run_dir, disk / "another"):
            ended = run_command(capsys, directory, NO_MARGIN)
            assert ended.exit_code == 2
            assert ended.stderr == (
                f"{directory}: cannot be written (Read-only file system); make it writable, or "
                "name another directory with --run-dir\n"
            )
        assert before == sorted((path, path.stat().st_mtime_ns) for path in run_dir.rglob("*"))
        remount(disk, "rw")
        assert run_command(capsys, run_dir, NO_MARGIN).exit_code == 0
        assert outcome(run_dir) == whole


def test_a_run_directory_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    for path in (tmp_path / "run", tmp_path / "run" / "below"):
        with pytest.raises(RecipeError, match="cannot be written"):
            require_writable(path)


@contextmanager
def small_files() -> Iterator[None]:
    """No file may grow beyond 1,000 bytes: a fault that needs no rights. Around single writes only,
    as the limit holds for the file that the tests' own output goes to as well.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_fails_half_way_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.json"
    write_json_atomic(path, {"old": 1})
    refused = pytest.raises(StorageError, match="the file system refuses")
    with refused, storage_errors(tmp_path), small_files():
        write_json_atomic(path, {"new": "x" * 5000})
    assert read_json(path) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_row_that_fails_half_way_is_left_out(tmp_path):
    path = tmp_path / "a.jsonl"
    append_jsonl(path, [{"step": 1}])
    with pytest.raises(StorageError), storage_errors(tmp_path), small_files():
        append_jsonl(path, [{"step": 2, "text": "x" * 5000}])
    append_jsonl(path, [{"step": 3}])
    assert list(read_jsonl(path)) == [{"step": 1}, {"step": 3}]


def test_beats_that_cannot_be_written_end_nothing_and_spoil_no_line(tmp_path):
    with small_disk(tmp_path / "disk", MEGABYTE) as disk:
        ledger = Ledger(disk, None)
        ledger.open()
        ballast = fill(disk)
        with warnings.catch_warnings(), ledger.beating():
            warnings.simplefilter("error")  # pytest's word for an error in a thread
            time.sleep(0.3)
        ballast.unlink()
        ledger.beat()
        (path,) = disk.iterdir()
        assert [row["kind"] for row in read_jsonl(path)][:2] == ["open", "price"]
        assert [row["seq"] for row in read_jsonl(path)] == list(range(len(list(read_jsonl(path)))))


def test_the_systems_error_is_found_in_what_libraries_make_of_it(tmp_path):
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("unexpected pos 704 vs 598") from error
    except RuntimeError as error:
        assert system_error(error) == (errno.ENOSPC, "")
    said = RuntimeError("Error while serializing: I/O error: No space left (os error 28)")
    assert system_error(said) == (errno.ENOSPC, "")
    with pytest.raises(DiskFull, match=r"\d bytes free"), storage_errors(tmp_path):
        raise said


def test_errors_that_are_not_the_disks_keep_their_names(tmp_path):
    with pytest.raises(RuntimeError, match="a defect"), storage_errors(tmp_path):
        raise RuntimeError("a defect")
    with pytest.raises(PermissionError), storage_errors(tmp_path):
        raise PermissionError(errno.EPERM, "Operation not permitted")  # of a signal, say
    with pytest.raises(PermissionError), storage_errors(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied", "/another/place")
    with pytest.raises(StorageError, match=r"model: cannot be written"), storage_errors(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "model"))
