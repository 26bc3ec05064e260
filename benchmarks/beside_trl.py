"""Pass@1 over wall-clock and over dollars, beside TRL's GRPO: the same model, problems, rewards,
group size and number of completions, vLLM in the trainer's process on both sides, one evaluator.

    python -m benchmarks.beside_trl run vibelite --seed 0 --out DIR --model MODEL [--set KEY=VALUE]
    python -m benchmarks.beside_trl run trl --seed 0 --out DIR --model MODEL
    python -m benchmarks.beside_trl report DIR/*.json --out FILE.json

`run` trains one seed of one side and evaluates what it kept, in at most `--seconds` (560). The
recipe is recipes/speedrun_0p5b.yaml, whose `keep_every` says which steps are points. A point's
seconds are the clock's from the start of the training process until its weights were saved (ours:
the ledger's); evaluating is not in them. TRL's settings are those of `beside_trl_grpo.py`. `report`
writes rows, table and, beside the JSON, the picture as HTML.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.ablation_runs import BENCHMARK, evaluation_of, model_row, run_recipe
from benchmarks.child_process import ROOT, run_child
from vibelite.algorithms.statistics import mean_with_interval
from vibelite.recipe.load import load_recipe
from vibelite.recipe.schema import Recipe
from vibelite.recipe.stage_section import BASE, MGPOStage
from vibelite.run_dir import RunDir, read_json, write_text_atomic
from vibelite.tables import format_table
from vibelite.telemetry.ledger import price_of, read_ledger
from vibelite.telemetry.manifest import describe_hardware
from vibelite.units import NANOSECONDS

RECIPE = ROOT / "recipes" / "speedrun_0p5b.yaml"
SIDES = ("vibelite", "trl")
# Of an evaluation: starting vLLM, sampling 160 x 8 completions.
EVALUATION_SECONDS = 35.0
NUM_BOOTSTRAP = 10_000
Point = Mapping[str, Any]


def mgpo_stage(recipe: Recipe) -> MGPOStage:
    (stage,) = (stage for stage in recipe.stages if isinstance(stage, MGPOStage))
    return stage


def kept_steps(stage: MGPOStage) -> list[int]:
    """The steps whose weights are points: every `keep_every`, and the last."""
    every = stage.keep_every or stage.num_steps
    return sorted({*range(every, stage.num_steps + 1, every), stage.num_steps})


def train_vibelite(recipe: Recipe, directory: Path) -> list[dict[str, Any]]:
    """Runs the recipe's reinforcement stage; its points: step, seconds and model."""
    stage = mgpo_stage(recipe)
    alone = recipe.model_copy(update={"stages": [stage]})
    run_recipe(alone, directory / "run")
    run = RunDir((directory / "run").resolve())
    ends: dict[int, float] = {}  # step -> seconds when the next one began
    seconds, step = 0.0, 0
    for entry in read_ledger(run.ledger_path):
        seconds += entry.wall_nanoseconds / NANOSECONDS
        if entry.stage == stage.name:
            step = entry.step or step
            ends[step] = seconds
    kept = run.find_stage(stage.name).checkpoints
    return [
        {"step": step, "seconds": ends[step], "model": str(kept / f"step-{step:06d}")}
        for step in kept_steps(stage)
    ]


def train(side: str, recipe: Recipe, directory: Path) -> None:
    """Trains in this process and writes `points.json`."""
    if side == "vibelite":
        points = train_vibelite(recipe, directory)
    else:
        from benchmarks.beside_trl_grpo import train_trl

        points = train_trl(recipe, directory, kept_steps(mgpo_stage(recipe)))
    write_text_atomic(directory / "points.json", json.dumps(points))


def evaluation_recipe(recipe: Recipe, model: str) -> Recipe:
    """A recipe that evaluates the model in the directory `model` as `recipe` would."""
    values = recipe.model_dump(mode="json")
    values["model"] = {"source": "pretrained", "path": model}
    values["stages"] = [evaluation_of(recipe, [BASE]).model_dump(mode="json")]
    return Recipe.model_validate(values)


def evaluate(recipe: Recipe, directory: Path) -> None:
    """Adds to every point, and to the base model, what it solves; writes `evaluated.json`."""
    price = price_of(recipe.cost, recipe.num_gpus)
    model = recipe.model.model_dump()["path"]
    rows: list[dict[str, Any]] = []
    for point in [
        {"step": 0, "seconds": 0.0, "model": model},
        *read_json(directory / "points.json"),
    ]:
        run_dir = directory / f"evaluated-{point['step']}"
        run_recipe(evaluation_recipe(recipe, point["model"]), run_dir)
        run = RunDir(run_dir.resolve())
        found = model_row(run, run.base_model)
        shares = [count / found["num_samples"] for count in found["correct"]]
        mean, low, high = mean_with_interval(shares, num_bootstrap=NUM_BOOTSTRAP, seed=0)
        usd = price and float(price.usd(round(point["seconds"] * NANOSECONDS)))
        rows.append({**point, **found, "usd": usd, "pass_at_1": mean, "pass_at_1_ci": [low, high]})
        write_text_atomic(directory / "evaluated.json", json.dumps(rows))


def run(side: str, options: argparse.Namespace) -> int:
    """Training and evaluation, each in a process of its own; the result of the seed."""
    name = f"{side}-{options.seed}"
    directory = options.out / name
    directory.mkdir(parents=True, exist_ok=True)
    recipe = recipe_of(options)
    begun = time.monotonic()
    result: dict[str, Any] = {"side": side, "seed": options.seed, "hardware": describe_hardware()}
    result["recipe"] = recipe.model_dump(mode="json")
    reserve = EVALUATION_SECONDS * (1 + len(kept_steps(mgpo_stage(recipe))))
    for part, file, seconds in (
        ("train", "points.json", options.seconds - reserve),
        ("evaluate", "evaluated.json", options.seconds),
    ):
        command = [sys.executable, "-m", "benchmarks.beside_trl", part, side, *sys.argv[3:]]
        left = seconds - (time.monotonic() - begun)
        outcome = run_child(command, directory / file, seconds=left)
        result |= {"points": outcome.result or []}
        if outcome.failure:
            result["failed"] = f"{part}: {outcome.failure}"
        write_text_atomic(options.out / f"{name}.json", json.dumps(result, indent=1) + "\n")
        if "failed" in result:
            return 1
    print(table([result]))
    return 0


def recipe_of(options: argparse.Namespace) -> Recipe:
    overrides = [*options.overrides, f"seed={options.seed}"]
    if options.model:
        overrides.append(f"model.path={options.model}")
    return load_recipe(options.recipe, overrides)


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """A line a point of a seed, then the means over the seeds of a side."""
    cells = []
    for result in results:
        for point in result["points"]:
            low, high = (f"{100 * end:.1f}" for end in point["pass_at_1_ci"])
            cells.append(
                [result["side"], str(result["seed"]), *point_cells(point), f"{low} to {high}"]
            )
    for side in SIDES:
        own = [result["points"] for result in results if result["side"] == side]
        for same in zip(*own, strict=False) if len(own) > 1 else ():
            names = ("step", "seconds", "usd", "pass_at_1")
            means = {key: fmean(one[key] or 0.0 for one in same) for key in names}
            cells.append([side, f"mean of {len(own)}", *point_cells(means), ""])
    return format_table(["side", "seed", "step", "seconds", "$", "Pass@1 %", "95%"], cells)


def point_cells(point: Point) -> list[str]:
    usd = "" if point["usd"] is None else f"{point['usd']:.3f}"
    return [
        f"{point['step']:.0f}",
        f"{point['seconds']:.0f}",
        usd,
        f"{100 * point['pass_at_1']:.1f}",
    ]


def picture(results: Sequence[Mapping[str, Any]]) -> str:
    """A page with Pass@1 over seconds and over USD, a line a seed, a colour a side."""
    from vibelite.report import charts

    style = Path(charts.__file__).with_name("report.css").read_text(encoding="utf-8")
    figures = []
    for key, label in (("seconds", "seconds"), ("usd", "USD")):
        series = [
            charts.Series(
                f"{result['side']}, seed {result['seed']}",
                [(point[key], 100 * point["pass_at_1"]) for point in result["points"]],
                SIDES.index(result["side"]),
            )
            for result in results
            if all(point[key] is not None for point in result["points"])
        ]
        title = f"Pass@1 in percent over {label}"
        figures.append(str(charts.line_chart(title, series, x_label=label, is_noisy=False)))
    return f"<!doctype html><meta charset=utf-8><style>{style}</style>{''.join(figures)}\n"


def report(files: Sequence[Path], out: Path) -> None:
    results = [read_json(file) for file in files]
    write_text_atomic(out, json.dumps({"benchmark": BENCHMARK, "runs": results}, indent=1) + "\n")
    write_text_atomic(out.with_suffix(".html"), picture(results))
    print(table(results))
    for result in results:
        if "failed" in result:
            print(f"{result['side']}, seed {result['seed']}: {result['failed'].splitlines()[0]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("run", "train", "evaluate"):
        part = commands.add_parser(name)
        part.add_argument("side", choices=SIDES)
        part.add_argument("--out", type=Path, required=True)
        part.add_argument("--seed", type=int, default=0)
        part.add_argument("--model", help="a local directory in place of the recipe's model")
        part.add_argument("--recipe", type=Path, default=RECIPE)
        part.add_argument("--seconds", type=float, default=560.0)
        part.add_argument("--set", action="append", default=[], dest="overrides")
    merged = commands.add_parser("report")
    merged.add_argument("files", type=Path, nargs="+")
    merged.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    if options.command == "report":
        report(options.files, options.out)
        return 0
    if options.command == "run":
        return run(options.side, options)
    recipe, directory = recipe_of(options), options.out / f"{options.side}-{options.seed}"
    if options.command == "train":
        train(options.side, recipe, directory)
    else:
        evaluate(recipe, directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
