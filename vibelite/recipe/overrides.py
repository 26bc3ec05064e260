"""`--set a.b=c`: changes a recipe's data before it is validated.

A key names mappings by key and lists by index; stages are named by index or by stage name, as in
stages.mgpo.num_steps=5. The value is YAML: a scalar, or a flow list or mapping such as [1, 2].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vibelite.recipe.source import Location, RecipeSource, parse_value
from vibelite.recipe.suggest import did_you_mean


def apply_overrides(source: RecipeSource, overrides: Sequence[str]) -> None:
    """Sets each `KEY=VALUE` in order; what cannot be set is added to `source.problems`."""
    for argument in overrides:
        try:
            _apply(source, argument)
        except ValueError as error:
            source.report((), str(error), origin=f"--set {argument}")


def _apply(source: RecipeSource, argument: str) -> None:
    key, equals, text = argument.partition("=")
    if not equals or not all(key.split(".")):
        raise ValueError("must be KEY=VALUE, for instance stages.mgpo.num_steps=5")
    try:
        value = parse_value(text)
    except ValueError as error:
        raise ValueError(f"the value is not YAML: {error}") from error
    origin = f"--set {argument}"
    container, location, rest = source.data, (), key.split(".")
    while True:
        step, rest = _step(source, container, location, rest)
        location = (*location, step)
        if not rest:
            break
        if isinstance(container, dict) and container.get(step) is None:
            container[step] = {}
            source.origins[location] = origin
        container = container[step]
    container[step] = value
    for inner in [inner for inner in source.origins if inner[: len(location)] == location]:
        del source.origins[inner]
    source.origins[location] = origin


def _step(
    source: RecipeSource, container: Any, location: Location, rest: list[str]
) -> tuple[Any, list[str]]:
    """The longest key or index that `rest` begins with (names may have dots), and what is left."""
    path = source.path_text(location)
    if isinstance(container, list):
        names: dict[str, int] = {str(index): index for index in range(len(container))}
        if location == ("stages",):
            stage_names = [source.stage_name(index) for index in range(len(container))]
            for index, name in enumerate(stage_names):
                if name and stage_names.count(name) == 1:
                    names[name] = index
    elif isinstance(container, dict):
        names = {str(name): name for name in container}
    else:
        raise ValueError(f"{path} is a value, it has no {'.'.join(rest)!r}")
    for length in range(len(rest), 0, -1):
        name = ".".join(rest[:length])
        if name in names:
            return names[name], rest[length:]
    if isinstance(container, list):
        raise ValueError(f"{path} has no {rest[0]!r}{did_you_mean(rest[0], names)}")
    return rest[0], rest[1:]
