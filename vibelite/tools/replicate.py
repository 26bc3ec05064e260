"""`vibelite replicate`: a run made again from its manifest, and compared with the first one."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vibelite.commands.options import AsJson, BudgetUsd, print_json
from vibelite.errors import DataError, RecipeError

if TYPE_CHECKING:
    from vibelite.recipe.schema import Recipe

EXIT_DIFFERS = 1


def replicate(
    manifest: Annotated[Path, typer.Argument(help="manifest.json of a run.")],
    out: Annotated[
        Path | None, typer.Option(help="The new run's directory; default: the old one's -replica.")
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="The recipe file, where it names files of yours beside it."),
    ] = None,
    budget_usd: BudgetUsd = None,
    as_json: AsJson = False,
) -> None:
    """Make a run again from its manifest and print what differs. Exit code 1 if a difference is
    more than chance.

    vibelite replicate runs/mine/manifest.json

    On the same program, processor and number of threads the weights must be the same, bit for bit;
    else Pass@1 is compared, if the first run lies beside its manifest. The same command again
    resumes.
    """
    original = read_manifest(manifest)
    first = manifest.resolve().parent
    second = (out or first.with_name(f"{first.name}-replica")).resolve()
    if second == first:
        raise RecipeError(f"--out {out}: holds the run that is to be replicated")
    with redirect_stdout(sys.stderr):
        run_again(recipe_of(original, budget_usd), original, second, recipe)
    from vibelite.commands.compare import print_differences
    from vibelite.report.compare import compare_runs

    changes = environment_changes(original, read_manifest(second / "manifest.json"))
    has_first = (first / "recipe.resolved.yaml").is_file()
    runs = {"original": first, "replica": second}
    differences = compare_runs(runs) if has_first else []
    same_weights = final_weights(first) == final_weights(second) if has_first else None
    if as_json:
        found = {"same_weights": same_weights, "environment": changes}
        print_json(found | {"differences": [asdict(one) for one in differences]})
    else:
        print("\n".join(changes) or "same program and processor")
        if has_first:
            print(f"the final weights {'are the same' if same_weights else 'differ'}")
            print_differences(differences)
        else:
            print(f"{first}: the first run is not here; compare the replica with a copy of it")
    must_be_same = has_first and not changes and not original["hardware"]["gpus"]
    if (must_be_same and not same_weights) or any(one.is_distinguishable for one in differences):
        raise typer.Exit(EXIT_DIFFERS)


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a run that began; RecipeError if it is none."""
    if not path.is_file():
        raise RecipeError(f"{path}: no such file; name the manifest.json of a run")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: cannot be read as a manifest ({error})") from error
    if not isinstance(manifest, dict) or "resolved_recipe" not in manifest:
        raise RecipeError(f"{path}: not the manifest of a run (it has no resolved_recipe)")
    return manifest


def recipe_of(manifest: Mapping[str, Any], budget_usd: float | None) -> Recipe:
    """The recipe in a manifest, with as many threads as it ran on, and a budget of its own."""
    from pydantic import ValidationError

    from vibelite.recipe.schema import Recipe

    own = {"num_threads": manifest["num_threads"], "budget": {"usd": budget_usd}}
    try:
        return Recipe.model_validate(manifest["resolved_recipe"] | own)
    except ValidationError as error:
        raise RecipeError(
            f"the manifest's recipe is not one of this version of vibelite: {error}; it was made "
            f"with version {manifest['versions'].get('vibelite', 'unknown')}"
        ) from error


def run_again(
    recipe: Recipe, manifest: Mapping[str, Any], directory: Path, recipe_path: Path | None
) -> None:
    """Runs `recipe` in `directory`. DataError, before anything runs, if its data are not those of
    the manifest.
    """
    from vibelite.pipeline import data_hashes, make_context, run_pipeline
    from vibelite.recipe.load import dump_resolved
    from vibelite.run_dir import RunDir, StageDir, write_text_atomic
    from vibelite.telemetry.meter import Meter

    if recipe_path is None:
        recipe_path = directory / "recipe.yaml"
        if not recipe_path.exists():
            write_text_atomic(recipe_path, dump_resolved(recipe))
    if not (directory / "base").exists():
        run = RunDir(directory)
        found = data_hashes(
            make_context(recipe, recipe_path, run, "base", StageDir(run.path), Meter())
        )
        known = manifest["data_sha256"]
        if changed := sorted(name for name in known if found.get(name) != known[name]):
            raise DataError(
                f"data sets {', '.join(changed)}: their content is not that of the manifest's run, "
                "so nothing was started; use the files of that time (see --recipe), or the "
                "versions of datasets and reasoning-gym that the manifest names"
            )
    run_pipeline(recipe, recipe_path=recipe_path, run_dir=directory)


def environment_changes(original: Mapping[str, Any], replica: Mapping[str, Any]) -> list[str]:
    """What of two manifests can change a number, as `what: original -> replica`."""

    def facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
        hardware = manifest["hardware"]
        named = {name: manifest[name] for name in ("python", "cuda", "num_threads")}
        gpus = ", ".join(gpu["name"] for gpu in hardware["gpus"]) or "none"
        named |= {"commit": manifest["git"]["commit"], "cpu": hardware["cpu"], "GPUs": gpus}
        return named | manifest["versions"]

    first, second = facts(original), facts(replica)
    return [
        f"{name}: {first.get(name, 'none')} -> {second.get(name, 'none')}"
        for name in dict.fromkeys([*first, *second])
        if first.get(name) != second.get(name)
    ]


def final_weights(run_dir: Path) -> list[str]:
    """SHA-256 of the weights of the model that the last stage with one left."""
    from vibelite.run_dir import StageDir
    from vibelite.storage import sha256_of

    stages = [StageDir(path.parent) for path in sorted(run_dir.glob("stages/*/status.json"))]
    models = [model for stage in stages for model in stage.models().values()]
    return [sha256_of(path) for path in sorted(models[-1].glob("*.safetensors"))] if models else []
