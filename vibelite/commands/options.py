"""Options that several commands have, and the checks they make before anything heavy is loaded."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vibelite.errors import Interrupted, RecipeError

if TYPE_CHECKING:
    from vibelite.recipe.data_section import Columns

# Of the fields of Columns, those that `--columns` can set.
COLUMN_NAMES = ("prompt", "answer", "tests", "rules", "subdomain", "id")
TABLE_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a YAML file.")]
Overrides = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe.")
]
BudgetUsd = Annotated[
    float | None,
    typer.Option("--budget-usd", min=0, help="Stop before this sum; exit code 10, resumable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
RunDirs = Annotated[
    list[Path], typer.Argument(help="Run directories; several are compared with the first.")
]
ReportPath = Annotated[Path | None, typer.Option("--output", "-o", help="The report's file.")]
Models = Annotated[list[Path], typer.Argument(help="Hugging Face model directories.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Use only the first N problems.")]
Verifier = Annotated[
    Literal["math", "exact", "choice", "code"],
    typer.Option(help="For tables; generators bring their own."),
]
ColumnNames = Annotated[
    str,
    typer.Option(
        metavar="NAME=COLUMN,...",
        help="Where prompt, answer, subdomain and id are; dots reach into structs.",
    ),
]


def read_columns(text: str) -> Columns:
    """`prompt=problem,answer=solution` as the recipe's columns."""
    from vibelite.recipe.data_section import Columns
    from vibelite.recipe.suggest import did_you_mean

    values: dict[str, Any] = {}
    for pair in filter(None, text.split(",")):
        name, equals, column = pair.partition("=")
        if name not in COLUMN_NAMES or not (equals and column):
            hint = did_you_mean(name, COLUMN_NAMES)
            raise RecipeError(f"--columns {text}: {pair!r} is not NAME=COLUMN{hint}")
        values[name] = column
    return Columns(**values)


def table_kind(text: str) -> Literal["file", "hub"] | None:
    """Whether a text names a local table or a data set on the hub (owner/name); None = neither."""
    path = Path(text).expanduser()
    is_directory = "/" in text and path.is_dir()
    if path.suffix in TABLE_SUFFIXES or is_directory or text.startswith((".", "/", "~")):
        if not path.exists():
            raise RecipeError(f"{text}: no such file")
        return "file"
    return "hub" if text.count("/") == 1 else None


def require_models(paths: Sequence[Path]) -> None:
    """RecipeError unless every path is a model directory."""
    for path in paths:
        if not path.is_dir():
            raise RecipeError(f"{path}: no such model directory")
        if not (path / "config.json").is_file():
            raise RecipeError(f"{path}: not a Hugging Face model directory (no config.json)")


def require_runs(paths: Sequence[Path]) -> None:
    """RecipeError unless every path is a run directory."""
    for path in paths:
        if not (path / "recipe.resolved.yaml").is_file():
            raise RecipeError(f"{path}: not a run directory (no recipe.resolved.yaml)")


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))


@contextmanager
def interruptible(where: str = "") -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block with Interrupted, whose message ends with `where`."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; the same command goes on{where}") from None
    finally:
        signal.signal(signal.SIGTERM, before)
