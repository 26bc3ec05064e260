"""What may go wrong with the disk under a run: no room, no right to write, bytes that changed.

Directories that are complete carry SHA256SUMS, which `sha256sum -c SHA256SUMS` understands too.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from safetensors import SafetensorError

from vibelite.errors import CheckpointError, DiskFull, RecipeError, StorageError

CHECKSUMS_NAME = "SHA256SUMS"
# SHA-256 is 0.7 GB/s on a core here (BLAKE2b 0.4, BLAKE3 2.3, XXH3 15.5), one file to a thread; of
# these it alone is checked by a program that every system has.
HASH_THREADS = 4
_hashes: dict[tuple[int, ...], str] = {}
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
NO_RIGHT = (errno.EROFS, errno.EACCES, errno.EPERM)
OTHER_FAULTS = (errno.EIO, errno.ESTALE, errno.EFBIG)


def free_bytes(path: Path) -> int:
    """What this user may still write to the disk of `path`, which need not exist yet."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def require_free(path: Path, num_bytes: int, *, margin_bytes: int, what: str) -> None:
    """DiskFull, with nothing written, unless `num_bytes` fit and leave `margin_bytes` free."""
    free = free_bytes(path)
    if free < num_bytes + margin_bytes:
        raise DiskFull(
            f"{path}: no room for {what}: it needs {num_bytes:,} bytes and {margin_bytes:,} are "
            f"to stay free, but only {free:,} are free. Nothing was written and what was complete "
            "is untouched; free space and run the same command to go on"
        )


def require_writable(directory: Path) -> None:
    """Makes the directory if need be; RecipeError unless files can be made in it."""
    with storage_errors(directory):
        try:
            directory.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=directory):
                pass
        except OSError as error:
            if error.errno not in (*NO_RIGHT, errno.ENOTDIR, errno.EEXIST):
                raise
            raise RecipeError(
                f"{directory}: cannot be written ({error.strerror}); make it writable, or name "
                "another directory with --run-dir"
            ) from error


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns what the disk under `path` refuses inside into DiskFull or StorageError.

    Libraries wrap the system's error in their own; the number is found in what they chain or say.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if (ours := error_of_disk(error, path)) is not None:
            raise ours from error
        raise


def error_of_disk(error: BaseException, path: Path) -> StorageError | None:
    """What to raise for an `error` of the disk under `path`; None if it is none."""
    number, name = system_error(error)
    where, reason = name or path, os.strerror(number)
    untouched = "What was complete before is untouched"
    if number in NO_ROOM:
        return DiskFull(
            f"{where}: the disk is full ({reason}; {free_bytes(path):,} bytes free). {untouched}; "
            "free space and run the same command to go on"
        )
    # Without a name, permission may have been denied for something that is no file.
    if number in NO_RIGHT and (number == errno.EROFS or Path(name).is_relative_to(path)):
        return StorageError(
            f"{where}: cannot be written ({reason}). {untouched}; make it writable, or copy the "
            "run to another disk and name it with --run-dir"
        )
    if number in OTHER_FAULTS:
        return StorageError(
            f"{where}: the file system refuses ({reason}). {untouched}; mend the cause and run the "
            "same command to go on"
        )
    return None


def system_error(error: BaseException) -> tuple[int, str]:
    """The system's error number and file name in a chain of exceptions; (0, "") without one."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno:
            return seen.errno, str(seen.filename or "")
        if said := re.search(r"os error (\d+)", str(seen)):  # Rust's wording
            return int(said[1]), ""
        seen = seen.__cause__ or seen.__context__
    return 0, ""


def sync_file(path: Path) -> None:
    """Returns when the content of a file, or the entries of a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Read once in a process for a file that nobody has touched since: a run opens models that it
    has just sealed.
    """
    with open(path, "rb") as file:
        found = os.fstat(file.fileno())
        key = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        if key not in _hashes:
            _hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _hashes[key]


def seal_directory(directory: Path, hashes: Mapping[str, str]) -> None:
    """Adds SHA256SUMS to a completely written directory and returns when all of it is on disk.
    `hashes`: those of files that were taken while they were written.
    """
    files = sorted(
        path for path in directory.rglob("*") if path.is_file() and path.name != CHECKSUMS_NAME
    )
    for path in files:
        sync_file(path)
    names = [str(path.relative_to(directory)) for path in files]
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        found = list(pool.map(lambda name: hashes.get(name) or sha256_of(directory / name), names))
    lines = [f"{digest}  {name}\n" for digest, name in zip(found, names, strict=True)]
    (directory / CHECKSUMS_NAME).write_text("".join(lines), encoding="utf-8")
    sync_file(directory / CHECKSUMS_NAME)
    for path in {directory, *(path.parent for path in files)}:
        sync_file(path)


def damage_of(directory: Path) -> str:
    """What is wrong with a sealed directory, with the file's name; empty if nothing is."""
    if not directory.is_dir():
        return f"{directory}: is missing"
    try:
        lines = (directory / CHECKSUMS_NAME).read_text(encoding="utf-8").splitlines()
        expected = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except (OSError, ValueError):
        return f"{directory / CHECKSUMS_NAME}: is missing or unreadable"
    paths = [directory / name for name in expected]
    if missing := [path for path in paths if not path.is_file()]:
        return f"{missing[0]}: is missing"
    try:
        with ThreadPoolExecutor(HASH_THREADS) as pool:
            found = list(pool.map(sha256_of, paths))
    except OSError as error:
        return f"{error.filename or directory}: cannot be read ({error.strerror})"
    for path, digest in zip(paths, found, strict=True):
        if digest != expected[str(path.relative_to(directory))]:
            return f"{path}: is damaged (its SHA-256 is not the one in {CHECKSUMS_NAME})"
    return ""


def require_unchanged(directory: Path, *, remedy: str) -> None:
    """CheckpointError that names the file if a directory that was sealed lost one or has one
    changed; one without checksums, such as a downloaded model, is taken as it is.
    """
    is_sealed = (directory / CHECKSUMS_NAME).exists()
    if is_sealed and (damage := damage_of(directory)):
        raise CheckpointError(f"{damage}; {remedy}")
