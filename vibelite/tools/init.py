"""`vibelite init`: a commented recipe to start from, that fits the machine and the budget."""

from __future__ import annotations

import io
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vibelite.commands.options import TABLE_SUFFIXES, table_kind
from vibelite.errors import RecipeError

if TYPE_CHECKING:
    from vibelite.planning.plan import Plan
    from vibelite.recipe.schema import Recipe

Judge = Literal["math", "exact", "choice", "code"]
WINDOW_CPU, WINDOW_GPU = 128, 4096
PROBLEMS_CPU, PROBLEMS_GPU = 8, 16
MGPO_STEPS_CPU, MGPO_STEPS_GPU = 12, 200
SFT_STEPS_CPU, SFT_STEPS_GPU = 24, 200
MIN_STEPS = 5
# Of a budget, what a plan may cost; the rest is left for what the plan does not foresee.
SHARE_OF_BUDGET = 0.8


def init(
    recipe: Annotated[Path, typer.Argument(help="The YAML file to write.")],
    model: Annotated[
        str, typer.Option(help="smollm2, a Hugging Face directory, or owner/name on the hub.")
    ] = "smollm2",
    gpu: Annotated[str, typer.Option(help="A GPU that `vibelite plan` lists, or cpu.")] = "cpu",
    usd_per_gpu_hour: Annotated[float | None, typer.Option(min=0, help="What it costs.")] = None,
    budget_usd: Annotated[float | None, typer.Option(min=0, help="Steps are cut to it.")] = None,
    problems: Annotated[
        str, typer.Option(help="Your problems: .jsonl, .json, .parquet, or owner/name on the hub.")
    ] = "",
    prompt: Annotated[str, typer.Option(help="The column of the question.")] = "prompt",
    answer: Annotated[str, typer.Option(help="The column of the answer.")] = "answer",
    verifier: Annotated[Judge, typer.Option(help="How answers are judged.")] = "math",
    reward: Annotated[
        str, typer.Option(metavar="FILE.py:FUNCTION", help="Your own judge, instead.")
    ] = "",
    traces: Annotated[
        str, typer.Option(help="Worked solutions (rows of messages) to fine-tune on first.")
    ] = "",
    max_new_tokens: Annotated[
        int | None, typer.Option(min=8, help="Longest completion, in tokens.")
    ] = None,
) -> None:
    """Write a commented starter recipe for a model, a machine, a budget and your own data.

    vibelite init mine.yaml --problems problems.jsonl --reward judge.py:score

    vibelite init math.yaml --model Qwen/Qwen2.5-1.5B-Instruct --gpu rtx4090-24gb --budget-usd 20
    --usd-per-gpu-hour 0.4 --problems problems.parquet
    """
    if recipe.exists():
        raise RecipeError(f"{recipe}: exists already; name a new file")
    if recipe.suffix not in (".yaml", ".yml"):
        raise RecipeError(f"{recipe}: a recipe's name ends in .yaml")
    if budget_usd is not None and usd_per_gpu_hour is None:
        raise RecipeError("--budget-usd: needs --usd-per-gpu-hour, to compute the cost of a step")
    if reward and not problems:
        raise RecipeError("--reward: needs --problems, which it judges")
    on_cpu = gpu == "cpu"
    values: dict[str, Any] = {
        "arguments": "".join(f" {shlex.quote(word)}" for word in sys.argv[2:]),
        "path": shlex.quote(str(recipe)), "name": recipe.stem, "gpu": gpu, "on_cpu": on_cpu,
        "price": usd_per_gpu_hour, "budget": budget_usd,
        "model": model if model == "smollm2" else _path_or_name(model, recipe),
        "problems": _table(problems, recipe), "traces": _table(traces, recipe),
        "columns": {"prompt": prompt, **({} if verifier == "code" else {"answer": answer})},
        "verifier": "custom" if reward else verifier, "reward": _reward(reward, recipe),
        "window": max_new_tokens or (WINDOW_CPU if on_cpu else WINDOW_GPU),
        "problems_per_step": PROBLEMS_CPU if on_cpu else PROBLEMS_GPU,
        "mgpo_steps": MGPO_STEPS_CPU if on_cpu else MGPO_STEPS_GPU,
        "sft_steps": SFT_STEPS_CPU if on_cpu else SFT_STEPS_GPU,
    }  # fmt: skip
    text, plan = fitted(values, recipe)
    recipe.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text(text, encoding="utf-8")
    print(f"{recipe}: {_summary(plan)}")
    print(f"next: vibelite plan {values['path']} --gpu {gpu}")
    print(f"then: vibelite run {values['path']}")


def fitted(values: dict[str, Any], recipe: Path) -> tuple[str, Plan]:
    """The recipe's text with the settings that make it fit the machine and the budget, and its
    plan. RecipeError where nothing makes it fit, DataError for rows that cannot be used.
    """
    from vibelite.data.sources import load_problems
    from vibelite.planning.advice import changes_to_fit
    from vibelite.planning.devices import device_named
    from vibelite.planning.model_shape import shape_of
    from vibelite.planning.plan import Machine, make_plan
    from vibelite.planning.workload import Assumptions

    machine = Machine(device_named(values["gpu"]), 1, values["price"])
    directory = recipe.resolve().parent

    def plan_of(text: str) -> Plan:
        loaded = _load(text, recipe)
        for source in loaded.data.problems.values():
            if source.source == "file":
                load_problems(source, recipe_dir=directory, seed=loaded.seed)
        shape = shape_of(loaded.model, directory)
        return make_plan(loaded, directory, shape, machine, Assumptions())

    text = _render(values)
    plan = plan_of(text)
    settings = changes_to_fit(plan)
    if settings is None:
        raise RecipeError(
            f"--gpu {values['gpu']}: no setting makes {values['model']} with "
            f"{values['window']} new tokens fit; a smaller --max-new-tokens or a larger GPU may"
        )
    text = _with_settings(text, settings)
    plan = plan_of(text)
    share = _affordable_share(plan, values["budget"])
    if share < 1:
        steps = {name: int(values[name] * share) for name in ("mgpo_steps", "sft_steps")}
        cut = {name: max(MIN_STEPS, number) for name, number in steps.items()}
        text = _with_settings(_render(values | cut), settings)
        plan = plan_of(text)
    assert plan.fits, f"what makes it fit was advised: {settings}"
    return text, plan


def _affordable_share(plan: Plan, budget: float | None) -> float:
    """The share (at most 1) of the training steps that the budget pays, once the stages without
    steps are paid for.
    """
    usd = plan.usd(plan.seconds)
    if budget is None or not usd:
        return 1.0
    with_steps = plan.usd(sum(s.seconds.total for s in plan.stages if s.work.num_steps)) or 0.0
    return min(1.0, (SHARE_OF_BUDGET * budget - (usd - with_steps)) / with_steps)


def _render(values: dict[str, Any]) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vibelite.tools", "."),
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template("starter.yaml.j2").render(values)


def _load(text: str, recipe: Path) -> Recipe:
    """The recipe that `text` would be at its place; what is wrong with it is reported there."""
    from vibelite.recipe.load import load_recipe

    recipe.parent.mkdir(parents=True, exist_ok=True)
    temporary = recipe.with_name(f".{recipe.stem}.new.yaml")
    try:
        temporary.write_text(text, encoding="utf-8")
        return load_recipe(temporary)
    except RecipeError as error:
        raise RecipeError(str(error).replace(str(temporary), str(recipe))) from error
    finally:
        temporary.unlink(missing_ok=True)


def _with_settings(text: str, settings: list[str]) -> str:
    """The text with settings such as stages.mgpo.optimizer.kind=adamw_cpu, its comments kept."""
    from ruamel.yaml import YAML

    if not settings:
        return text
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
        place[last] = YAML(typ="safe").load(value)
    stream = io.StringIO()
    stream.write(f"# Set so that it fits: {', '.join(settings)}\n")
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
    return {"source": kind, "path": _relative(Path(text), recipe) if kind == "file" else text}


def _reward(text: str, recipe: Path) -> dict[str, str] | None:
    if not text:
        return None
    file, _, function = text.partition(":")
    if not Path(file).is_file():
        raise RecipeError(f"--reward {text}: there is no file {file}; write FILE.py:FUNCTION")
    return {"file": _relative(Path(file), recipe), "function": function or "score"}


def _path_or_name(model: str, recipe: Path) -> str:
    """A directory relative to the recipe, or the name on the hub."""
    return _relative(Path(model), recipe) if Path(model).is_dir() else model


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
