"""Recipe files: text + `--set` -> Recipe, or one RecipeError that lists what is wrong.

Each line of that error reads `file:line:col: path: what is wrong; did you mean ...`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError
from ruamel.yaml import YAML

from vibelite.errors import RecipeError
from vibelite.recipe.explain import explain
from vibelite.recipe.overrides import apply_overrides
from vibelite.recipe.references import check_references
from vibelite.recipe.schema import Recipe
from vibelite.recipe.source import read_source


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The validated recipe of the file at `path`, changed by `overrides` (`KEY=VALUE` each).

    Raises RecipeError (exit code 2) with all problems of its keys and values, one a line, or, where
    these are right, of what they say about each other.
    """
    source = read_source(path)
    apply_overrides(source, overrides)
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(source.data)
    except ValidationError as error:
        for location, message in explain(error):
            source.report(location, message)
    else:
        check_references(recipe, source, path.parent)
    if source.problems or recipe is None:
        raise RecipeError("\n".join(source.problem_lines()))
    return recipe


def dump_resolved(recipe: Recipe) -> str:
    """The recipe as YAML with every default and override written out; loads to an equal recipe."""
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 100
    text = io.StringIO()
    yaml.dump(recipe.model_dump(mode="json"), text)
    return text.getvalue()
