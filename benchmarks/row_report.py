"""The rows of a measurement: made case by case, printed as a table, and written anew to a file
after every row, so that one that is stopped leaves the numbers that it had.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vibelite.errors import RecipeError
from vibelite.models.load import default_device
from vibelite.run_dir import write_text_atomic
from vibelite.tables import format_table
from vibelite.telemetry.manifest import describe_hardware

Row = Mapping[str, Any]
SaveRows = Callable[[Sequence[Row]], None]
REASONS = {"out_of_memory": "does not fit", "left_out": "left out", "failed": "failed"}


@dataclass(frozen=True, slots=True)
class Columns:
    """Fields of a row: what names its case, what its bytes are the sum of, its seconds."""

    names: tuple[str, ...]
    sizes: tuple[str, ...]
    seconds: tuple[str, ...]

    HEADER = ("case", "GB", "seconds", "note")

    def line(self, row: Row) -> list[str]:
        """GB are 1e9 bytes; the note says why there are none."""
        names = [
            f"{row[name]} GB" if name == "cap_gb" else str(row[name])
            for name in self.names if name in row
        ]  # fmt: skip
        size, seconds = "", ""
        if all(key in row for key in self.sizes):
            size = f"{sum(row[key] for key in self.sizes) / 1e9:.2f}"
        if all(key in row for key in self.seconds):
            seconds = " + ".join(f"{row[key]:.3f}" for key in self.seconds)
        note = next((word for key, word in REASONS.items() if key in row), "")
        if "offload_overhead" in row:
            note = f"offloading {row['offload_overhead']:+.3f} of the time"
        return [", ".join(names), size, seconds, note]

    def table(self, rows: Sequence[Row]) -> str:
        return format_table(self.HEADER, [self.line(row) for row in rows])


UPDATE = ("gradient_seconds", "update_seconds")
COLUMNS = {
    "mgpo": Columns(
        ("cap_gb", "optimizer", "dtype", "gradient_dtype", "activations", "tokens"),
        ("peak_bytes", "context_bytes"), UPDATE,
    ),
    "optim": Columns(
        ("kind", "dtype", "gradient_dtype"), ("device_bytes",), ("gradient_seconds", "step_seconds")
    ),
    "activations": Columns(
        ("activations", "mlp_tile_tokens", "tokens"), ("peak_bytes",), ("seconds",)
    ),
    "lora": Columns(("kind", "stage", "tokens"), ("allocated_bytes",), UPDATE),
}  # fmt: skip


def rows_of(
    cases: Iterable[tuple[Row, Callable[[], Iterable[Row]]]], columns: Columns, save: SaveRows
) -> list[dict[str, Any]]:
    """The rows of every case, each with the fields that name it; `save` gets them after each. A
    case that cannot run here is a row that says why, and one that fails is too: the others are
    worth having, and the exit code tells.
    """
    rows: list[dict[str, Any]] = []
    for head, measure in cases:
        try:
            for row in measure():
                rows.append({**head, **row})
                print("  ".join(columns.line(rows[-1])), flush=True)
                save(rows)
        except RecipeError as error:  # bitsandbytes is not there, or not for this machine
            rows.append({**head, "left_out": str(error)})
        except Exception as error:
            rows.append(dict(head) | failure_row(error))
        save(rows)
        release()
    return rows


def release() -> None:
    """Gives cached memory back, so that one case's fragments are not the next one's peak."""
    gc.collect()
    if default_device().type == "cuda":
        torch.cuda.empty_cache()


def forget(rows: Sequence[Row]) -> None:
    """Saves nothing."""


def row_saver(path: Path | None) -> SaveRows:
    """Writes rows with the environment to `path` in one piece; without a path, nothing."""
    if path is None:
        return forget
    path.parent.mkdir(parents=True, exist_ok=True)
    environment = {"torch": torch.__version__, "hardware": describe_hardware()}

    def save(rows: Sequence[Row]) -> None:
        write_text_atomic(path, json.dumps({**environment, "rows": list(rows)}, indent=1) + "\n")

    return save


def failure_row(error: Exception) -> dict[str, str]:
    """What a row says of a case that failed; the traceback is printed."""
    traceback.print_exception(error)
    return {"failed": f"{type(error).__name__}: {error}"[:1000]}


def exit_code(rows: Sequence[Row]) -> int:
    return int(any("failed" in row for row in rows))


def finish(columns: Columns, rows: Sequence[Row]) -> int:
    """Prints the table, and under it why rows are missing; the exit code."""
    print(columns.table(rows))
    for row in rows:
        if "left_out" in row:
            print(f"left out: {columns.line(row)[0]}: {row['left_out']}")
    return exit_code(rows)


def run_command(name: str, measure: Callable[..., Sequence[Row]], tiny: Mapping[str, Any]) -> None:
    """The command line of a measurement: `measure(save=...)`, with `--tiny` also given `tiny`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, help="written after every row")
    parser.add_argument("--tokens", nargs="+", type=int)
    parser.add_argument("--tiny", action="store_true", help="a tiny model, on a CPU")
    arguments = parser.parse_args()
    given = {"device": torch.device("cpu"), **tiny} if arguments.tiny else {}
    if arguments.tokens:
        given["tokens"] = arguments.tokens
    rows = measure(save=row_saver(arguments.out), **given)
    sys.exit(finish(COLUMNS[name], rows))
