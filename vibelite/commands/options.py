"""Options that several commands have, and the checks they make before anything heavy is loaded."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vibelite.errors import Interrupted, RecipeError
from vibelite.hints import CHECKOUT

if TYPE_CHECKING:
    from vibelite.recipe.data_section import Columns

# Of the fields of Columns, those that `--columns` can set.
COLUMN_NAMES = ("prompt", "answer", "tests", "rules", "subdomain", "id")
TABLE_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the program, by their names: inside an installed package, or
    beside it in a checkout.
    """
    inside = Path(__file__).parents[1] / "recipes"
    directory = inside if inside.is_dir() else CHECKOUT / "recipes"
    return {path.stem: path for path in sorted(directory.glob("*.yaml"))}


def recipe_path(path: Path) -> Path:
    """The file that is meant: one of the shell's, or a shipped recipe by its name alone."""
    if path.is_dir():
        raise RecipeError(f"{path}: is a directory; name the YAML file of a recipe")
    if path.exists() or path.suffix or len(path.parts) > 1:
        return path
    known = shipped_recipes()
    if str(path) not in known:
        from vibelite.recipe.suggest import did_you_mean

        hint = did_you_mean(str(path), known)
        raise RecipeError(f"{path}: no such file, and no recipe that comes with vibelite{hint}")
    return known[str(path)]


RecipePath = Annotated[
    Path, typer.Argument(help="A YAML file, or the name of a shipped one.", callback=recipe_path)
]
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
Models = Annotated[list[Path], typer.Argument(help="Hugging Face directories, or owner/name.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Use a sample of N problems.")]
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
    return "hub" if HUB_NAME.fullmatch(text) and not path.exists() else None


def require_models(paths: Sequence[Path]) -> None:
    """RecipeError unless every path is a model directory, or may be the name of a hub's model."""
    for path in paths:
        if path.is_dir():
            if not (path / "config.json").is_file():
                raise RecipeError(f"{path}: not a Hugging Face model directory (no config.json)")
        elif path.exists() or not HUB_NAME.fullmatch(str(path)):
            raise RecipeError(f"{path}: no such model directory, nor owner/name of a hub's model")


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
