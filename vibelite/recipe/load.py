"""Recipe files: text + `--set` -> Recipe, or one RecipeError that lists everything that is wrong.

Each line of that error reads `file:line:col: path: what is wrong; did you mean ...`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML

from vibelite.errors import RecipeError
from vibelite.recipe.data_section import ProblemSource, TraceSource
from vibelite.recipe.explain import explain
from vibelite.recipe.model_section import Model
from vibelite.recipe.overrides import apply_overrides
from vibelite.recipe.references import RecipeParts, check_references
from vibelite.recipe.schema import Recipe
from vibelite.recipe.source import RecipeSource, read_source
from vibelite.recipe.stage_section import AnyStage

_MODEL = TypeAdapter(Model)
_PROBLEMS = TypeAdapter(ProblemSource)
_TRACES = TypeAdapter(TraceSource)
_STAGE = TypeAdapter(AnyStage)


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The validated recipe of the file at `path`, changed by `overrides` (`KEY=VALUE` each).

    Raises RecipeError (exit code 2) with all problems at once, one a line.
    """
    source = read_source(path)
    apply_overrides(source, overrides)
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(source.data)
    except ValidationError as error:
        for location, message in explain(error):
            source.report(location, message)
    check_references(_valid_parts(source), source, path.parent)
    if source.problems:
        raise RecipeError("\n".join(source.problem_lines()))
    assert recipe is not None, "no problem was reported, so validation succeeded"
    return recipe


def dump_resolved(recipe: Recipe) -> str:
    """The recipe as YAML with every default and override written out; loads to an equal recipe."""
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 100
    text = io.StringIO()
    yaml.dump(recipe.model_dump(mode="json"), text)
    return text.getvalue()


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of recipes, for the completion of editors."""
    return Recipe.model_json_schema()


def _valid_parts(source: RecipeSource) -> RecipeParts:
    """Validates the parts of a recipe one by one; what is wrong in them is reported elsewhere."""
    data = _mapping(source.data.get("data"))
    stages = source.data.get("stages")
    stages = stages if isinstance(stages, list) else []
    problems, traces = _mapping(data.get("problems")), _mapping(data.get("traces"))
    return RecipeParts(
        model=_valid(_MODEL, source.data.get("model")),
        problems={name: _valid(_PROBLEMS, value) for name, value in problems.items()},
        traces={name: _valid(_TRACES, value) for name, value in traces.items()},
        stages=[_valid(_STAGE, stage) for stage in stages],
        stage_names=[source.stage_name(index) for index in range(len(stages))],
        stage_kinds=[_mapping(stage).get("kind") for stage in stages],
    )


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _valid(adapter: TypeAdapter[Any], value: Any) -> Any:
    try:
        return adapter.validate_python(value)
    except ValidationError:
        return None
