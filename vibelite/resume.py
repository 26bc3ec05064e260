"""What a recipe may differ in from the one that its run began with, and which local files that it
names have changed since.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML

from vibelite.errors import RecipeError
from vibelite.recipe.load import dump_resolved
from vibelite.recipe.schema import Recipe
from vibelite.run_dir import RunDir
from vibelite.storage import sha256_of

# Memory, speed, price and where a run is shown: no result depends on them but by rounding.
FREE_SECTIONS = ("budget", "cost", "checkpoint", "num_gpus", "parallel", "tracking")
FREE_SETTINGS = {
    "rollout": ("tensor_parallel",),
    "training": ("activations", "mlp_tile_tokens"),
    "verification": ("num_workers",),
}
FREE_OF_STAGES = ("tokens_per_micro_batch",)
NOWHERE = "none"


def saved_recipe(run: RunDir) -> dict[str, Any]:
    return what_matters(with_new_settings(run.resolved_recipe_path.read_text(encoding="utf-8")))


def with_new_settings(resolved: str) -> str:
    """A resolved recipe with the defaults of settings that did not exist when it was saved; as it
    is where it has one that no longer exists, which is then told as a difference.
    """
    try:
        return dump_resolved(Recipe.model_validate(YAML(typ="safe").load(resolved)))
    except ValidationError:
        return resolved


def what_matters(resolved: str) -> dict[str, Any]:
    """A resolved recipe without what may change while a run goes on."""
    values = YAML(typ="safe").load(resolved)
    for name in FREE_SECTIONS:
        values.pop(name, None)
    for section, names in FREE_SETTINGS.items():
        for name in names:
            values.get(section, {}).pop(name, None)
    for stage in values["stages"]:
        for name in FREE_OF_STAGES:
            stage.pop(name, None)
        if stage["kind"] == "mgpo":  # of sft it is which models are probed
            stage.pop("checkpoint_every", None)
    return values


def is_changed(recipe: Recipe, run: RunDir) -> bool:
    """Whether the recipe names other places for the run's data than when the run began, or more
    stages.
    """
    return saved_recipe(run) != what_matters(dump_resolved(recipe))


def require_same_run(recipe: Recipe, run_dir: Path, run: RunDir) -> None:
    """RecipeError, with every key that differs, unless the run can go on under `recipe`. Stages
    after the last, and sets for them, may be added.
    """
    saved, given = saved_recipe(run), what_matters(dump_resolved(recipe))
    changes = list(differences(without_paths(saved), without_paths(given)))
    if not changes:
        return
    trained = [stage["name"] for stage in saved["stages"] if "num_steps" in stage]
    longer = f"; to train longer, append a stage with start_from: {trained[-1]}" if trained else ""
    raise RecipeError(
        f"{run_dir}: holds a run of a different recipe: {'; '.join(changes)}. Put the old values "
        "back to go on with it (settings of memory, speed, price and budget may change), or name "
        f"another directory with --run-dir{longer}"
    )


def differences(saved: Any, given: Any, key: str = "") -> Iterator[str]:
    """Each setting that is not as it was: `key: old -> new`."""
    if isinstance(saved, dict) and isinstance(given, dict):
        for name in dict.fromkeys([*saved, *given]):
            is_added = name not in saved and key in ("data.problems", "data.traces")
            if not is_added:
                below = f"{key}.{name}" if key else str(name)
                yield from differences(saved.get(name, NOWHERE), given.get(name, NOWHERE), below)
    elif key == "stages":
        for place, stage in enumerate(saved):
            other = given[place] if place < len(given) else NOWHERE
            yield from differences(stage, other, f"stages.{stage['name']}")
    elif saved != given:
        yield f"{key}: {shown(saved)} -> {shown(given)}"


def shown(value: Any) -> str:
    """A setting in a message; a whole stage by its name."""
    if isinstance(value, dict):
        return str(value.get("name", value.get("kind", "{...}")))
    return "null" if value is None else str(value)


def without_paths(values: dict[str, Any]) -> dict[str, Any]:
    """A resolved recipe without where its model and its data are, which another machine may keep
    elsewhere.
    """
    return values | {key: without_places(values[key]) for key in ("data", "model")}


def without_places(value: Any) -> Any:
    """Nested values without the keys that name a place."""
    match value:
        case dict():
            kept = {key: item for key, item in value.items() if key not in ("path", "local")}
            return {key: without_places(item) for key, item in kept.items()}
        case list():
            return [without_places(item) for item in value]
    return value


def file_hashes(recipe: Recipe, recipe_dir: Path) -> dict[str, str]:
    """SHA-256 of every local file that the recipe's data name, by the setting that names it."""
    data = YAML(typ="safe").load(dump_resolved(recipe))["data"]
    named = {key: (recipe_dir / Path(text).expanduser()) for key, text in texts_in(data, "data")}
    return {key: sha256_of(path) for key, path in named.items() if path.is_file()}


def texts_in(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every text that a setting called `path`, `file` or `local` has, by its key."""
    if isinstance(value, dict):
        for name, part in value.items():
            if isinstance(part, str) and name in ("path", "file", "local"):
                yield f"{key}.{name}", part
            yield from texts_in(part, f"{key}.{name}")
    elif isinstance(value, list):
        for place, part in enumerate(value):
            yield from texts_in(part, f"{key}.{place}")
