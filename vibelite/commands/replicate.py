"""`vibelite replicate`: a run made again from its manifest alone, and how far the two are apart."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vibelite.errors import DataError, RecipeError

if TYPE_CHECKING:
    from vibelite.recipe.schema import Recipe
    from vibelite.telemetry.outcome import Drift

EXIT_DIFFERS = 1


def replicate(
    manifest: Annotated[Path, typer.Argument(help="manifest.json of a run that has ended.")],
    out: Annotated[
        Path | None, typer.Option(help="The new run's directory; default: the old one's -replica.")
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="The recipe file, where it names files of yours beside it."),
    ] = None,
    budget_usd: Annotated[
        float | None, typer.Option("--budget-usd", min=0, help="Stop before this sum.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make a run again from its manifest and print what differs. Exit code 1 if anything does.

    On the same program, processor and number of threads every bit must be the same; with a GPU, or
    other versions, results must agree within their intervals. The same command again resumes.
    """
    original = read_manifest(manifest)
    directory = out or manifest.resolve().parent.with_name(
        f"{manifest.resolve().parent.name}-replica"
    )
    if (directory / "manifest.json").resolve() == manifest.resolve():
        raise RecipeError(f"--out {directory}: holds the run that is to be replicated")
    with redirect_stdout(sys.stderr):
        from vibelite.telemetry.outcome import compare_outcomes, expects_same_bits
        from vibelite.telemetry.outcome import environment_differences as differences_of

        made = recipe_of(original, budget_usd)
        run_again(made, original, directory, recipe)
        replica = read_manifest(directory / "manifest.json")
    same_bits = expects_same_bits(original, replica)
    drifts = compare_outcomes(original["outcome"], replica["outcome"], same_bits=same_bits)
    differences = differences_of(original, replica)
    is_same = bool(drifts) and all(drift.is_same for drift in drifts)
    if as_json:
        from vibelite.telemetry.outcome import drifts_as_json

        rows = drifts_as_json(drifts)
        found = {"same": is_same, "bitwise": same_bits, "environment": differences, "drift": rows}
        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        print_drift(drifts, differences, same_bits=same_bits)
    if not is_same:
        raise typer.Exit(EXIT_DIFFERS)


def read_manifest(path: Path) -> dict[str, Any]:
    """A manifest that says what its run came to; RecipeError if it does not."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: cannot be read as a manifest ({error})") from error
    for key in ("resolved_recipe", "outcome"):
        if not isinstance(manifest, dict) or key not in manifest:
            raise RecipeError(
                f"{path}: not the manifest of a run that has ended (it has no {key}); "
                "finish the run, or make it again with this version"
            )
    return manifest


def recipe_of(manifest: Mapping[str, Any], budget_usd: float | None) -> Recipe:
    """The recipe in a manifest, with as many threads as it ran on, and a budget of its own."""
    from pydantic import ValidationError

    from vibelite.recipe.schema import Recipe

    values = manifest["resolved_recipe"] | {
        "num_threads": manifest["num_threads"],
        "budget": {"usd": budget_usd},
    }
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(
            f"the manifest's recipe is not one of this version of vibelite: {error}; it was made "
            f"with version {manifest['versions'].get('vibelite', 'unknown')}"
        ) from error


def run_again(
    recipe: Recipe, manifest: Mapping[str, Any], directory: Path, recipe_path: Path | None
) -> None:
    """Runs `recipe` in `directory`, once its data are known to be those of the manifest."""
    from vibelite.pipeline import data_hashes, make_context, run_pipeline
    from vibelite.recipe.load import dump_resolved
    from vibelite.run_dir import RunDir, StageDir, write_text_atomic
    from vibelite.telemetry.meter import Meter

    if recipe_path is None:
        recipe_path = directory / "recipe.yaml"
        if not recipe_path.exists():
            write_text_atomic(recipe_path, dump_resolved(recipe))
    if not (directory / "base").exists():
        run = RunDir(directory.resolve())
        context = make_context(recipe, recipe_path, run, "base", StageDir(run.path), Meter())
        require_same_data(manifest["data_sha256"], data_hashes(context))
    run_pipeline(recipe, recipe_path=recipe_path, run_dir=directory)


def require_same_data(original: Mapping[str, str], found: Mapping[str, str]) -> None:
    """DataError that names every set whose content is another one."""
    changed = sorted(name for name in original if found.get(name) != original[name])
    if changed:
        raise DataError(
            f"data sets {', '.join(changed)}: their content is not that of the manifest's run, so "
            "nothing was started; use the files of that time (see --recipe), or the versions of "
            "datasets and reasoning-gym that the manifest names"
        )


def print_drift(drifts: Sequence[Drift], differences: Sequence[str], *, same_bits: bool) -> None:
    """The table, and by what it was judged."""
    print(
        "same program and processor: bits are compared" if same_bits else "compared within bands:"
    )
    for difference in differences:
        print(f"  {difference}")
    width = max((len(drift.what) for drift in drifts), default=4)
    row = f"{{:<{width}}}  {{:>14}}  {{:>14}}  {{:>12}}  {{}}".format
    print(row("", "original", "replica", "allowed", ""))
    for drift in drifts:
        verdict = "same" if drift.is_same else "DIFFERS"
        print(row(drift.what, drift.original, drift.replica, drift.band, verdict))
    num_different = sum(not drift.is_same for drift in drifts)
    print(f"{num_different} of {len(drifts)} differ" if num_different else "nothing differs")
