"""`vibelite run`: a recipe from start to end, or the rest of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from vibelite.commands.options import BudgetUsd, Overrides, RecipePath, interruptible
from vibelite.errors import BudgetReached, Interrupted, RecipeError
from vibelite.ranks.launch import run_ranks
from vibelite.ranks.ranks import is_started_with_others

RunDirectory = Annotated[
    Path | None, typer.Option("--run-dir", help="Where the run lives; default runs/<name>.")
]
Until = Annotated[
    str | None, typer.Option("--until", metavar="STAGE", help="Stop after this stage.")
]


def run(
    recipe: RecipePath,
    overrides: Overrides = [],  # noqa: B006 - typer copies it
    run_dir: RunDirectory = None,
    until: Until = None,
    budget_usd: BudgetUsd = None,
) -> None:
    """Run a recipe from start to end; the same command again resumes it.

    vibelite run mine.yaml --set stages.mgpo.num_steps=50 --budget-usd 5
    """
    from vibelite.recipe.load import load_recipe
    from vibelite.recipe.suggest import did_you_mean

    if budget_usd is not None:
        overrides = [*overrides, f"budget.usd={budget_usd}"]
    loaded = load_recipe(recipe, overrides)
    names = [stage.name for stage in loaded.stages]
    if until is not None and until not in names:
        raise RecipeError(f"--until {until}: no such stage{did_you_mean(until, names)}")
    if loaded.num_gpus > 1 and not is_started_with_others():
        command = [sys.executable, "-m", "vibelite", *sys.argv[1:]]
        raise typer.Exit(run_ranks(loaded.num_gpus, command))
    if getattr(loaded.model, "loader", "") == "unsloth":
        from vibelite.models.unsloth_loader import import_unsloth

        import_unsloth()  # before anything below imports transformers
    from vibelite.pipeline import run_pipeline
    from vibelite.telemetry.meter import process_nanoseconds

    directory = run_dir or Path("runs") / loaded.name
    with interruptible(f" in {directory}"):  # until the run listens itself, to save first
        try:
            run_pipeline(
                loaded,
                recipe_path=recipe,
                run_dir=directory,
                until=until,
                boot_nanoseconds=process_nanoseconds(),
            )
        except BudgetReached as reason:
            raise BudgetReached(
                f"{reason}. Everything is saved in {directory}: raise the limit and run the same "
                "command to go on"
            ) from None
        except Interrupted as reason:
            raise Interrupted(f"{reason}; the same command goes on in {directory}") from None
