"""`vibelite init`: a commented recipe to start from, that fits the machine and the budget."""

from __future__ import annotations

import io
import math
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vibelite.commands.options import TABLE_SUFFIXES, Overrides, recipe_path, table_kind
from vibelite.errors import RecipeError
from vibelite.hints import program
from vibelite.units import HOUR

if TYPE_CHECKING:
    from vibelite.planning.devices import Device
    from vibelite.planning.plan import Plan
    from vibelite.recipe.schema import Recipe

Judge = Literal["math", "exact", "choice", "code"]
Traces = Annotated[str, typer.Option(help="Worked solutions, rows of messages, to start from.")]
Reward = Annotated[str, typer.Option(metavar="FILE.py:FUNCTION", help="Your own judge, instead.")]
SIZES_CPU = {"window": 64, "problems_per_step": 4, "mgpo_steps": 8, "sft_steps": 24}
SIZES_GPU = {"window": 4096, "problems_per_step": 16, "mgpo_steps": 200, "sft_steps": 200}
MIN_STEPS = 5
# Of a budget, what a plan may cost; the rest is left for what the plan does not foresee.
SHARE_OF_BUDGET = 0.8
# On a CPU the first run is a look at whether all works; with this plan it ends within 10 minutes.
CPU_SECONDS = 450.0
FIRST_LOOK = (
    "sized for a first look on a CPU: it shows that rows, reward and recipe work together, not "
    "what the model can learn; for that, raise num_steps, or write it for a GPU with --gpu"
)


def init(
    recipe: Annotated[Path, typer.Argument(help="The YAML file to write.")],
    shipped: Annotated[
        str, typer.Option("--from", metavar="NAME", help="Copy this recipe of vibelite's instead.")
    ] = "",
    model: Annotated[
        str, typer.Option(help="smollm2, a Hugging Face directory, or owner/name on the hub.")
    ] = "smollm2",
    gpu: Annotated[
        str, typer.Option(help="Such as rtx4090-24gb, or cpu; default: this machine's.")
    ] = "",
    usd_per_gpu_hour: Annotated[float | None, typer.Option(min=0, help="What it costs.")] = None,
    budget_usd: Annotated[float | None, typer.Option(min=0, help="Steps are cut to it.")] = None,
    problems: Annotated[
        str, typer.Option(help="Your problems: .jsonl, .csv, .parquet, ..., or owner/name.")
    ] = "",
    prompt: Annotated[str, typer.Option(help="The column of the question.")] = "",
    answer: Annotated[str, typer.Option(help="The column of the answer.")] = "",
    subdomain: Annotated[str, typer.Option(help="The column of the sub-domain.")] = "",
    verifier: Annotated[Judge, typer.Option(help="How answers are judged.")] = "math",
    reward: Reward = "",
    traces: Traces = "",
    max_new_tokens: Annotated[
        int | None, typer.Option(min=8, help="Longest completion, in tokens.")
    ] = None,
    overrides: Overrides = [],  # noqa: B006 - typer copies it
) -> None:
    """Write a commented starter recipe for a model, a machine, a budget and your own data.

    vibelite init math.yaml --model Qwen/Qwen2.5-1.5B-Instruct --gpu rtx4090-24gb --budget-usd 20
    --usd-per-gpu-hour 0.4 --problems problems.parquet

    vibelite init big.yaml --from vibethinker_1p5b_1x80gb --set seed=1
    """
    from vibelite.planning.devices import device_named

    needing = {"--reward": reward, "--subdomain": subdomain, "--prompt": prompt, "--answer": answer}
    _require_possible(recipe, [name for name, value in needing.items() if value and not problems])
    if budget_usd is not None and usd_per_gpu_hour is None:
        raise RecipeError("--budget-usd: needs --usd-per-gpu-hour, to compute the cost of a step")
    if shipped and (problems or traces or budget_usd is not None or model != "smollm2" or gpu):
        raise RecipeError("--from: copies a recipe as it is; change it with --set alone")
    if shipped:
        return _write(recipe, *_copied(shipped, recipe, overrides), is_copy=True)
    device = device_named(gpu)
    columns = {"prompt": prompt, "answer": answer, "subdomain": subdomain}
    values: dict[str, Any] = {
        "arguments": "".join(f" {shlex.quote(word)}" for word in sys.argv[2:]),
        "program": program(), "path": shlex.quote(str(recipe)), "name": recipe.stem,
        "gpu": device.name, "on_cpu": device.is_cpu,
        "price": usd_per_gpu_hour, "budget": budget_usd,
        "model": model if model == "smollm2" else _path_or_name(model, recipe),
        "problems": _table(problems, recipe), "traces": _table(traces, recipe),
        "columns": {name: column for name, column in columns.items() if column},
        "verifier": "custom" if reward else verifier, "reward": _reward(reward, recipe),
        **(SIZES_CPU if device.is_cpu else SIZES_GPU),
        **({"window": max_new_tokens} if max_new_tokens else {}),
    }  # fmt: skip
    _write(recipe, *fitted(values, recipe, device, overrides))


def _require_possible(recipe: Path, lonely: Sequence[str]) -> None:
    """RecipeError for a file that must not be written, and for options about rows without any."""
    if recipe.exists():
        raise RecipeError(f"{recipe}: exists already; name a new file")
    if recipe.suffix not in (".yaml", ".yml"):
        raise RecipeError(f"{recipe}: a recipe's name ends in .yaml")
    if lonely:
        raise RecipeError(f"{', '.join(lonely)}: needs --problems, whose rows are meant")


def _write(recipe: Path, text: str, plan: Plan, *, is_copy: bool = False) -> None:
    """Writes the recipe, and says what it costs and what to type next."""
    for line in _dry_pass(text, recipe):
        print(line)
    recipe.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text(text, encoding="utf-8")
    vibelite, path = program(), shlex.quote(str(recipe))
    print(f"{recipe}: {_summary(plan)}")
    if plan.machine.device.is_cpu and not is_copy:
        print(FIRST_LOOK)
    print(f"what it needs: {vibelite} plan {path}")
    print(f"what this machine lacks: {vibelite} doctor {path}")
    print(f"then: {vibelite} run {path}")


def _copied(name: str, recipe: Path, overrides: Sequence[str]) -> tuple[str, Plan]:
    """A shipped recipe under the name of the new file, and its plan."""
    from vibelite.planning.devices import device_named

    text = recipe_path(Path(name)).read_text(encoding="utf-8")
    text = re.sub(r"^name: .*$", f"name: {recipe.stem}", text, count=1, flags=re.MULTILINE)
    text = _with_settings(text, overrides, recipe)
    loaded = _load(text, recipe)
    return text, _plan(loaded, recipe, device_named(loaded.cost.gpu, "cost.gpu"))


def _plan(loaded: Recipe, recipe: Path, device: Device) -> Plan:
    from vibelite.planning.model_shape import shape_of
    from vibelite.planning.plan import Machine, machine_price, make_plan
    from vibelite.planning.workload import Assumptions

    directory = recipe.resolve().parent
    num_gpus = 1 if device.is_cpu else loaded.num_gpus
    machine = Machine(device, num_gpus, *machine_price(loaded.cost, None, num_gpus))
    shape = shape_of(loaded.model, directory)
    return make_plan(loaded, directory, shape, machine, Assumptions())


def fitted(
    values: dict[str, Any], recipe: Path, device: Device, overrides: Sequence[str]
) -> tuple[str, Plan]:
    """The recipe's text with the settings that make it fit the machine and the budget, and its
    plan. RecipeError where nothing makes it fit, DataError for rows that cannot be used.
    """
    from vibelite.data.sources import load_problems
    from vibelite.planning.advice import changes_to_fit

    text = _with_settings(_render(values), overrides, recipe)
    loaded = _load(text, recipe)
    for source in loaded.data.problems.values():
        if source.source == "file":
            load_problems(source, recipe_dir=recipe.resolve().parent, seed=loaded.seed)
    plan = _plan(loaded, recipe, device)
    settings = changes_to_fit(plan)
    if settings is None:
        raise RecipeError(
            f"--gpu {device.name}: no setting makes {values['model']} with "
            f"{values['window']} new tokens fit; a smaller --max-new-tokens or a larger GPU may"
        )

    def planned(values: dict[str, Any]) -> tuple[str, Plan]:
        text = _with_settings(_render(values), [*overrides, *settings], recipe)
        if settings:
            text = f"# Set so that it fits: {', '.join(settings)}\n{text}"
        return text, _plan(_load(text, recipe), recipe, device)

    text, plan = planned(values)
    share = _affordable_share(plan, values["budget"])
    if share < 1:
        steps = {name: int(values[name] * share) for name in ("mgpo_steps", "sft_steps")}
        text, plan = planned(
            values | {name: max(MIN_STEPS, number) for name, number in steps.items()}
        )
    assert plan.fits, f"what makes it fit was advised: {settings}"
    return text, plan


def _dry_pass(text: str, recipe: Path) -> list[str]:
    """What was tried of the user's own rows; no recipe is written where something cannot work."""
    from vibelite.stages.dry_pass import local_dry_pass

    return local_dry_pass(_load(text, recipe), recipe.resolve().parent)


def _affordable_share(plan: Plan, budget: float | None) -> float:
    """The share (at most 1) of the training steps that the budget pays and that a CPU takes in
    CPU_SECONDS, once the stages without steps are paid for.
    """
    seconds = CPU_SECONDS if plan.machine.device.is_cpu else math.inf
    if budget is not None and plan.machine.usd_per_hour:
        seconds = min(seconds, SHARE_OF_BUDGET * budget / plan.machine.usd_per_hour * HOUR)
    with_steps = sum(stage.seconds.total for stage in plan.stages if stage.work.num_steps)
    return min(1.0, (seconds - (plan.seconds - with_steps)) / with_steps)


def _render(values: dict[str, Any]) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vibelite.tools", "."),
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template("starter.yaml.j2").render(values)


def _load(text: str, recipe: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe that `text` would be at its place; what is wrong with it is reported there."""
    from vibelite.recipe.load import load_recipe

    recipe.parent.mkdir(parents=True, exist_ok=True)
    temporary = recipe.with_name(f".{recipe.stem}.new.yaml")
    try:
        temporary.write_text(text, encoding="utf-8")
        return load_recipe(temporary, overrides)
    except RecipeError as error:
        raise RecipeError(str(error).replace(str(temporary), str(recipe))) from error
    finally:
        temporary.unlink(missing_ok=True)


def _with_settings(text: str, settings: Sequence[str], recipe: Path) -> str:
    """The text with settings such as stages.mgpo.optimizer.kind=adamw_cpu, its comments kept;
    RecipeError for those that cannot be.
    """
    from ruamel.yaml import YAML

    from vibelite.recipe.source import parse_value

    if not settings:
        return text
    _load(text, recipe, settings)
    yaml = YAML()
    yaml.width = 100
    yaml.preserve_quotes = True
    yaml.indent(mapping=2, sequence=4, offset=2)
    data = yaml.load(text)
    for setting in settings:
        path, _, value = setting.partition("=")
        *parents, last = path.split(".")
        place = data
        for name in parents:
            if isinstance(place, list):
                place = next(stage for stage in place if stage.get("name", stage["kind"]) == name)
            else:
                place = place.setdefault(name, {})
        place[last] = parse_value(value)
    stream = io.StringIO()
    yaml.dump(data, stream)
    return stream.getvalue()


def _table(text: str, recipe: Path) -> dict[str, str] | None:
    """A file or a hub data set as a recipe names it; None for none."""
    if not text:
        return None
    kind = table_kind(text)
    if kind is None:
        suffixes = ", ".join(TABLE_SUFFIXES)
        raise RecipeError(f"{text}: neither a {suffixes} file nor owner/name on the hub")
    path = _relative(Path(text).expanduser(), recipe) if kind == "file" else text
    return {"source": kind, "path": path}


def _reward(text: str, recipe: Path) -> dict[str, str] | None:
    if not text:
        return None
    file, _, function = text.partition(":")
    if not Path(file).is_file():
        raise RecipeError(f"--reward {text}: there is no file {file}; write FILE.py:FUNCTION")
    return {"file": _relative(Path(file), recipe), "function": function or "score"}


def _path_or_name(model: str, recipe: Path) -> str:
    """A directory relative to the recipe, or the name on the hub."""
    directory = Path(model).expanduser()
    return _relative(directory, recipe) if directory.is_dir() else model


def _relative(path: Path, recipe: Path) -> str:
    return os.path.relpath(path.resolve(), recipe.resolve().parent)


def _summary(plan: Plan) -> str:
    from vibelite.units import duration

    usd = plan.usd(plan.seconds)
    cost = "" if usd is None else f", ${usd:.2f}"
    gib = plan.peak_bytes / 2**30
    return (
        f"about {duration(plan.seconds)}{cost} on {plan.machine.device.name}, {gib:.1f} GiB at most"
    )
