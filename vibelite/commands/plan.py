"""`vibelite plan`: memory, time, money and disk of a recipe, before any work."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vibelite.commands.options import AsJson, Overrides, RecipePath, print_json
from vibelite.errors import RecipeError

if TYPE_CHECKING:
    from vibelite.planning.plan import Plan
    from vibelite.planning.workload import Assumptions
    from vibelite.recipe.schema import Recipe

EXIT_DOES_NOT_FIT = 5
NumGpus = Annotated[int | None, typer.Option(min=1, help="Default: the recipe's; 1 on a CPU.")]


def plan(
    recipe: RecipePath,
    overrides: Overrides = [],  # noqa: B006 - typer copies it
    gpu: Annotated[
        str, typer.Option(help="A listed GPU, such as rtx4090-24gb; cpu = this machine without.")
    ] = "h100-80gb",
    num_gpus: NumGpus = None,
    usd_per_gpu_hour: Annotated[
        float | None, typer.Option(min=0, help="Default: what the recipe's cost says, if anything.")
    ] = None,
    rate: Annotated[
        list[str],
        typer.Option(metavar="NAME=VALUE", help="Change a number of the GPU, such as memory_gib."),
    ] = [],  # noqa: B006
    assume: Annotated[
        list[str], typer.Option(metavar="NAME=VALUE", help="Change an assumption of the plan.")
    ] = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Peak memory by phase, seconds and $ by stage, disk; what to change where it does not fit.

    vibelite plan recipes/quickstart.yaml --gpu rtx4090-24gb --usd-per-gpu-hour 0.4
    """
    from vibelite.planning.advice import changes_to_fit, longest_responses
    from vibelite.planning.devices import device_named, with_rates
    from vibelite.planning.model_shape import shape_of
    from vibelite.planning.plan import Machine, machine_price, make_plan, plan_as_json
    from vibelite.planning.text import plan_text
    from vibelite.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides)
    directory = recipe.resolve().parent
    num_gpus = num_gpus or (1 if gpu == "cpu" else loaded.num_gpus)
    _require_possible(loaded, gpu, num_gpus)
    price = machine_price(loaded.cost, usd_per_gpu_hour, num_gpus)
    machine = Machine(with_rates(device_named(gpu), _numbers("--rate", rate)), num_gpus, *price)
    shape = shape_of(loaded.model, directory)
    made = make_plan(loaded, directory, shape, machine, _assumptions(assume))
    changes, longest = changes_to_fit(made), longest_responses(made)
    free = _free_space(made, loaded.name)
    if as_json:
        report = plan_as_json(made) | {"suggestions": changes, "longest_response": longest}
        report["free_bytes"] = {place: free_bytes for place, (_, free_bytes) in free.items()}
        print_json(report)
    else:
        print(plan_text(made, changes, longest, free))
    if not made.fits:
        raise typer.Exit(EXIT_DOES_NOT_FIT)


def _require_possible(recipe: Recipe, gpu: str, num_gpus: int) -> None:
    if gpu == "cpu" and num_gpus > 1:
        raise RecipeError(f"--num-gpus {num_gpus}: a CPU is planned alone; leave it out")
    if num_gpus % recipe.rollout.tensor_parallel:
        raise RecipeError(
            f"rollout.tensor_parallel: {recipe.rollout.tensor_parallel} must divide the number of "
            f"GPUs, which is {num_gpus} here; change --num-gpus or add "
            "--set rollout.tensor_parallel=1"
        )


def _assumptions(changes: list[str]) -> Assumptions:
    from vibelite.planning.workload import Assumptions

    names = [field.name for field in fields(Assumptions)]
    return Assumptions(**_numbers("--assume", changes, names))


def _numbers(option: str, changes: list[str], names: Iterable[str] = ()) -> dict[str, float]:
    """NAME=VALUE of an option as numbers above 0, of these names if any are given."""
    from vibelite.recipe.suggest import did_you_mean

    values = {}
    for change in changes:
        name, _, text = change.partition("=")
        if names and name not in names:
            raise RecipeError(f"{option} {change}: no such name{did_you_mean(name, names)}")
        try:
            values[name] = float(text)
        except ValueError as error:
            raise RecipeError(f"{option} {change}: {text!r} is not a number") from error
        if not 0 < values[name] < float("inf"):
            raise RecipeError(f"{option} {change}: must be a number above 0")
    return values


def _free_space(made: Plan, name: str) -> dict[str, tuple[str, float]]:
    """For each place that is written to its directory here and the free bytes there."""
    from vibelite.planning.disk import CACHE, RUN
    from vibelite.storage import free_bytes

    cache = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    directories = {RUN: Path("runs") / name, CACHE: cache}
    return {
        need.place: (str(directories[need.place]), free_bytes(directories[need.place]))
        for need in made.disk
    }
