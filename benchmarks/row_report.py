"""The file of a measurement's rows, written anew after every row: one that is stopped leaves the
numbers that it had.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vibelite.telemetry.hardware import describe_hardware

SaveRows = Callable[[Sequence[Mapping[str, Any]]], None]


def forget(rows: Sequence[Mapping[str, Any]]) -> None:
    """Saves nothing."""


def row_saver(path: Path | None) -> SaveRows:
    """Writes rows with the environment to `path` in one piece; without a path, nothing."""
    if path is None:
        return forget
    path.parent.mkdir(parents=True, exist_ok=True)
    environment = {"torch": torch.__version__, "hardware": describe_hardware()}

    def save(rows: Sequence[Mapping[str, Any]]) -> None:
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps({**environment, "rows": list(rows)}, indent=1) + "\n")
        os.replace(part, path)

    return save


def failure_row(error: Exception) -> dict[str, str]:
    """What a row says of a case that failed; the traceback is printed, and the others go on."""
    traceback.print_exception(error)
    return {"failed": f"{type(error).__name__}: {error}"[:1000]}


def exit_code(rows: Sequence[Mapping[str, Any]]) -> int:
    return int(any("failed" in row for row in rows))
