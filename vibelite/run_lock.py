"""One process at a time in a run directory.

The lock belongs to the open file, so that the system takes it back however its holder ends: there
are no stale locks.
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vibelite.errors import RecipeError

LOCK_NAME = ".lock"


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Holds the run directory's lock inside; RecipeError if another process holds it."""
    path = run_dir / LOCK_NAME
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise RecipeError(
                f"{run_dir}: in use by {file.read().strip() or 'another process'}; wait for it, "
                "stop it, or use another --run-dir"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
