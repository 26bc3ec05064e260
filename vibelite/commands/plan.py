"""`vibelite plan`: memory, time, money and disk of a recipe, before any work."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vibelite.commands.options import AsJson, Overrides, RecipePath, print_json
from vibelite.errors import RecipeError
from vibelite.units import GIB

if TYPE_CHECKING:
    from vibelite.planning.devices import Device
    from vibelite.planning.plan import Plan
    from vibelite.planning.workload import Assumptions
    from vibelite.recipe.schema import Recipe

EXIT_DOES_NOT_FIT = 5
# Numbers of a device; a command line gives its memory in GiB.
DEVICE_NUMBERS = ("memory_gib", "bytes_per_second", "flops")
NumGpus = Annotated[int | None, typer.Option(min=1, help="Default: the recipe's; 1 on a CPU.")]


def plan(
    recipe: RecipePath,
    overrides: Overrides = [],  # noqa: B006 - typer copies it
    gpu: Annotated[
        str,
        typer.Option(
            help="Such as rtx4090-24gb, or cpu; default: the recipe's, or this machine's."
        ),
    ] = "",
    num_gpus: NumGpus = None,
    usd_per_gpu_hour: Annotated[
        float | None, typer.Option(min=0, help="Default: what the recipe's cost says, if anything.")
    ] = None,
    assume: Annotated[
        list[str],
        typer.Option(metavar="NAME=VALUE", help="Change what is assumed, or the GPU's memory_gib."),
    ] = [],  # noqa: B006 - typer copies it
    as_json: AsJson = False,
) -> None:
    """Peak memory by phase, seconds and $ by stage, disk; what to change where it does not fit.

    vibelite plan recipes/quickstart.yaml --gpu rtx4090-24gb --usd-per-gpu-hour 0.4
    """
    from vibelite.planning.advice import changes_to_fit, longest_responses
    from vibelite.planning.devices import device_named
    from vibelite.planning.model_shape import shape_of
    from vibelite.planning.plan import Machine, machine_price, make_plan, plan_as_json
    from vibelite.planning.text import plan_text
    from vibelite.recipe.load import load_recipe
    from vibelite.stages.dry_pass import local_dry_pass

    loaded = load_recipe(recipe, overrides)
    directory = recipe.resolve().parent
    named = device_named(gpu) if gpu else device_named(loaded.cost.gpu, "cost.gpu")
    device, assumptions = assumed(named, assume)
    num_gpus = num_gpus or (1 if device.is_cpu else loaded.num_gpus)
    _require_possible(loaded, device, num_gpus)
    price = machine_price(loaded.cost, usd_per_gpu_hour, num_gpus)
    machine = Machine(device, num_gpus, *price)
    tried = local_dry_pass(loaded, directory)
    shape = shape_of(loaded.model, directory)
    made = make_plan(loaded, directory, shape, machine, assumptions)
    changes, longest = changes_to_fit(made), longest_responses(made)
    free = _free_space(made, loaded.name)
    if as_json:
        report = plan_as_json(made) | {"suggestions": changes, "longest_response": longest}
        report["tried"] = tried
        report["free_bytes"] = {place: free_bytes for place, (_, free_bytes) in free.items()}
        print_json(report)
    else:
        print("\n".join([*tried, plan_text(made, changes, longest, free)]))
    if not made.fits:
        raise typer.Exit(EXIT_DOES_NOT_FIT)


def _require_possible(recipe: Recipe, device: Device, num_gpus: int) -> None:
    if device.is_cpu and num_gpus > 1:
        raise RecipeError(f"--num-gpus {num_gpus}: a CPU is planned alone; leave it out")
    if num_gpus % recipe.rollout.tensor_parallel:
        raise RecipeError(
            f"rollout.tensor_parallel: {recipe.rollout.tensor_parallel} must divide the number of "
            f"GPUs, which is {num_gpus} here; change --num-gpus or add "
            "--set rollout.tensor_parallel=1"
        )


def assumed(device: Device, changes: Sequence[str]) -> tuple[Device, Assumptions]:
    """The device and the assumptions with these NAME=VALUE in place of their own."""
    from vibelite.planning.workload import Assumptions
    from vibelite.recipe.suggest import did_you_mean

    names = [field.name for field in fields(Assumptions)]
    values: dict[str, float] = {}
    for change in changes:
        name, _, text = change.partition("=")
        if name not in (*names, *DEVICE_NUMBERS):
            hint = did_you_mean(name, [*names, *DEVICE_NUMBERS])
            raise RecipeError(f"--assume {change}: no such name{hint}")
        try:
            values[name] = float(text)
        except ValueError as error:
            raise RecipeError(f"--assume {change}: {text!r} is not a number") from error
        if not 0 < values[name] < float("inf"):
            raise RecipeError(f"--assume {change}: must be a number above 0")
    own: dict[str, Any] = {name: values.pop(name) for name in DEVICE_NUMBERS if name in values}
    if "memory_gib" in own:
        own["memory_bytes"] = int(own.pop("memory_gib") * GIB)
    return replace(device, **own), Assumptions(**values)


def _free_space(made: Plan, name: str) -> dict[str, tuple[str, float]]:
    """For each place that is written to its directory here and the free bytes there."""
    from vibelite.planning.plan import CACHE, RUN
    from vibelite.storage import free_bytes

    cache = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    directories = {RUN: Path("runs") / name, CACHE: cache}
    return {
        need.place: (str(directories[need.place]), free_bytes(directories[need.place]))
        for need in made.disk
    }
