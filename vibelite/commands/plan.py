"""`vibelite plan`: memory, time, money and disk of a recipe, before any work."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vibelite.errors import RecipeError

if TYPE_CHECKING:
    from vibelite.planning.gpus import Gpu
    from vibelite.planning.plan import Plan
    from vibelite.planning.workload import Assumptions

EXIT_DOES_NOT_FIT = 5
HOUR = 3600


def plan(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    overrides: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe.")
    ] = [],  # noqa: B006 - typer copies it
    gpu: Annotated[str, typer.Option(help="A listed GPU, such as rtx4090-24gb.")] = "h100-80gb",
    num_gpus: Annotated[int, typer.Option(min=1)] = 1,
    usd_per_gpu_hour: Annotated[
        float | None, typer.Option(min=0, help="Default: the recipe's cost.usd_per_hour, if any.")
    ] = None,
    memory_gib: Annotated[
        float | None, typer.Option(min=0, help="Instead of the listed GPU's memory.")
    ] = None,
    assume: Annotated[
        list[str], typer.Option(metavar="NAME=VALUE", help="Change an assumption of the plan.")
    ] = [],  # noqa: B006 - typer copies it
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Peak memory by phase, seconds and $ by stage; what to change where it does not fit.

    vibelite plan recipes/quickstart.yaml --gpu rtx4090-24gb --usd-per-gpu-hour 0.4
    """
    from vibelite.planning.known_models import shape_of
    from vibelite.planning.plan import Machine, make_plan, plan_as_json, suggestions
    from vibelite.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides)
    directory = recipe.resolve().parent
    price = loaded.cost.usd_per_hour
    if usd_per_gpu_hour is not None:
        price = usd_per_gpu_hour * num_gpus
    machine = Machine(_gpu(gpu, memory_gib), num_gpus, price)
    shape = shape_of(loaded.model, directory)
    assumptions = _assumptions(assume)
    made = make_plan(loaded, directory, shape, machine, assumptions)
    advice = None
    if not made.fits:
        advice = suggestions(loaded, directory, shape, machine, assumptions)
    if as_json:
        report = plan_as_json(made) | {"suggestions": advice}
        print(json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False))
    else:
        _print_plan(made, loaded.name, advice)
    if not made.fits:
        raise typer.Exit(EXIT_DOES_NOT_FIT)


def _gpu(name: str, memory_gib: float | None) -> Gpu:
    from vibelite.planning.gpus import gpu_named

    gpu = gpu_named(name)
    return gpu if memory_gib is None else replace(gpu, memory_bytes=int(memory_gib * 2**30))


def _assumptions(changes: list[str]) -> Assumptions:
    from vibelite.planning.workload import Assumptions
    from vibelite.recipe.suggest import did_you_mean

    names = [field.name for field in fields(Assumptions)]
    values = {}
    for change in changes:
        name, _, value = change.partition("=")
        if name not in names:
            raise RecipeError(f"--assume {change}: no such assumption{did_you_mean(name, names)}")
        try:
            values[name] = float(value)
        except ValueError as error:
            raise RecipeError(f"--assume {change}: {value!r} is not a number") from error
        if values[name] <= 0:
            raise RecipeError(f"--assume {change}: must be above 0")
    return Assumptions(**values)


def _print_plan(plan: Plan, name: str, advice: list[str] | None) -> None:
    from vibelite.planning.plan import USABLE, as_gib, smallest_gpu

    gpu = plan.machine.gpu
    print(
        f"{name}: {plan.shape.num_parameters / 1e9:.3f} B parameters on {plan.machine.num_gpus} x "
        f"{gpu.name} ({as_gib(gpu.memory_bytes)} GiB, {USABLE:.0%} usable)\n"
    )
    print(f"{'stage':<12}{'phase':<10}{'GiB':>8}  of which")
    for stage in plan.stages:
        for phase in stage.phases:
            parts = sorted(phase.parts.items(), key=lambda part: -part[1])
            shown = ", ".join(f"{part} {as_gib(size)}" for part, size in parts if size >= 2**26)
            host = f"; host {as_gib(phase.host)}" if phase.host else ""
            print(f"{phase.stage:<12}{phase.phase:<10}{as_gib(phase.total):>8}  {shown}{host}")
    row = "{:<12}{:>7}{:>11}{:>11}{:>11}{:>10}".format
    print("\n" + row("stage", "steps", "generate", "train", "a step", "$"))
    for stage in plan.stages:
        seconds, steps = stage.seconds, stage.work.num_steps
        if seconds.total:
            each = f"{seconds.total / steps:.3g} s" if steps else ""
            train = _hours(seconds.train + seconds.optimizer)
            generate, usd = _hours(seconds.generate), _usd(plan, seconds.total)
            print(row(stage.work.stage, steps or "", generate, train, each, usd))
    print(row("together", "", "", _hours(plan.seconds), "", _usd(plan, plan.seconds)))
    print(f"disk: {as_gib(plan.disk_bytes)} GiB")
    assumptions = ", ".join(
        f"{field.name} {getattr(plan.assumptions, field.name):g}"
        for field in fields(plan.assumptions)
    )
    print(f"assumed: {assumptions} (--assume NAME=VALUE)")
    smallest = smallest_gpu(plan)
    if plan.fits:
        print(f"it fits; the smallest listed GPU for it is {smallest.name if smallest else 'none'}")
        return
    peak = plan.peak
    print(f"it does not fit: {peak.stage}/{peak.phase} needs {as_gib(peak.total)} GiB")
    if advice is None:
        print("no setting makes it fit: a smaller window, an adapter or a larger GPU would")
    else:
        print("it would fit with " + " ".join(f"--set {setting}" for setting in advice))
    if smallest is not None:
        print(f"as it is, the smallest listed GPU for it is {smallest.name}")


def _hours(seconds: float) -> str:
    if not seconds:
        return ""
    return f"{seconds / HOUR:.2f} h" if seconds >= 600 else f"{seconds:.1f} s"


def _usd(plan: Plan, seconds: float) -> str:
    price = plan.machine.usd_per_hour
    return "" if price is None else f"{seconds / HOUR * price:.2f}"
