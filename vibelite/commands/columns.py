"""`--columns`: where a table has what, for the commands that read tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vibelite.errors import RecipeError

if TYPE_CHECKING:
    from vibelite.recipe.data_section import Columns

# Those of Columns that one name says.
NAMES = ("prompt", "answer", "tests", "rules", "subdomain", "id")

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
        if name not in NAMES or not (equals and column):
            hint = did_you_mean(name, NAMES)
            raise RecipeError(f"--columns {text}: {pair!r} is not NAME=COLUMN{hint}")
        values[name] = column
    return Columns(**values)
