"""`vibelite sweep`: `vibelite run` for every combination of some settings, under one budget."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer

from vibelite.commands.options import AsJson, Overrides, RecipePath, interruptible, print_json
from vibelite.errors import BudgetReached, Interrupted, RecipeError

EXIT_FAILED = 1
LOG_LINES = 5
RUN = (sys.executable, "-m", "vibelite", "run")


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of the sweep: its directory, and what is set in it alone."""

    directory: Path
    settings: Sequence[str]

    @property
    def log(self) -> Path:
        return self.directory.with_name(f"{self.directory.name}.log")


def sweep(
    recipe: RecipePath,
    over: Annotated[
        list[str], typer.Option(metavar="KEY=VALUE,...", help="What is tried; may be repeated.")
    ],
    overrides: Overrides = [],  # noqa: B006 - typer copies it
    budget_usd: Annotated[
        float | None, typer.Option("--budget-usd", min=0, help="Of all trials together.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the trials' runs are; default sweeps/<name>.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """One run for every combination of settings, and a report of them all.

    vibelite sweep recipes/quickstart.yaml --over stages.mgpo.maxent_lambda=0,1,4 --budget-usd 1

    The same command again goes on. Trials are judged by Pass@1 of the last model evaluated.
    """
    from vibelite.recipe.load import load_recipe
    from vibelite.report.build import write_report

    if budget_usd is not None:
        overrides = [*overrides, f"budget.usd={budget_usd}"]
    loaded = load_recipe(recipe, overrides)
    directory = out or Path("sweeps") / loaded.name
    trials = trials_of(recipe, over, overrides, directory)
    command = [*RUN, str(recipe), *(word for one in overrides for word in ("--set", one))]
    rows = []
    with interruptible(f" in {directory}"):
        for trial in trials:
            failure = ""
            if len(list(trial.directory.glob("stages/*/status.json"))) < len(loaded.stages):
                print(f"{trial.directory.name}: see {trial.log}", file=sys.stderr)
                budget = budget_left(trials, trial, loaded.budget.usd)
                failure = run_trial([*command, *budget], trial)
            rows.append(describe(trial, failure))
    report = write_report([trial.directory for trial in trials], directory / "report.html")
    if as_json:
        print_json({"trials": rows, "report": str(report)})
    else:
        print_trials(trials, rows)
        print(report)
    if any(row["failure"] for row in rows):
        raise typer.Exit(EXIT_FAILED)


def trials_of(
    recipe: Path, over: Sequence[str], overrides: Sequence[str], directory: Path
) -> list[Trial]:
    """A trial for every combination, named after its settings, once every one of them is known to
    be a recipe.
    """
    from vibelite.recipe.load import load_recipe

    values = dict(map(parse_values, over))
    if len(values) < len(over):
        raise RecipeError(f"--over {' --over '.join(over)}: a key is there twice")
    trials = []
    for combination in itertools.product(*values.values()):
        settings = [f"{key}={value}" for key, value in zip(values, combination, strict=True)]
        load_recipe(recipe, [*overrides, *settings])
        name = ",".join(setting.removeprefix("stages.") for setting in settings)
        trials.append(Trial(directory / re.sub(r"[^\w=.,-]+", "-", name), settings))
    return trials


def parse_values(argument: str) -> tuple[str, list[str]]:
    """`KEY=VALUE,VALUE,...` as the key and the values in the form that `--set` takes."""
    from vibelite.recipe.source import parse_value

    key, equals, text = argument.partition("=")
    try:
        values = parse_value(f"[{text}]") if key and equals else []
    except ValueError as error:
        raise RecipeError(f"--over {argument}: the values are not YAML: {error}") from error
    if not values:
        raise RecipeError(f"--over {argument}: must be KEY=VALUE,VALUE,...")
    texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
    return key, list(dict.fromkeys(texts))


def budget_left(trials: Sequence[Trial], trial: Trial, budget_usd: float | None) -> list[str]:
    """The `--set` of a trial's own budget: what it has spent, and what all of them have left."""
    if budget_usd is None:
        return []
    left = budget_usd - sum(spent_usd(one) for one in trials)
    if left <= 0:
        raise BudgetReached(
            f"the sweep's budget of ${budget_usd} is spent; raise --budget-usd and run the same "
            "command to go on"
        )
    return ["--set", f"budget.usd={spent_usd(trial) + left}"]


def spent_usd(trial: Trial) -> float:
    from vibelite.telemetry.ledger import run_cost

    return float(run_cost(trial.directory / "ledger")[1] or 0)


def run_trial(command: Sequence[str], trial: Trial) -> str:
    """Runs a trial in a process of its own, what it prints in a file beside its directory. Returns
    why it failed, or "".

    Raises BudgetReached, Interrupted and RecipeError as the run does, which is saved then.
    """
    options = [word for setting in trial.settings for word in ("--set", setting)]
    trial.log.parent.mkdir(parents=True, exist_ok=True)
    with open(trial.log, "ab") as output:
        # A session of its own: Ctrl-C reaches it once, as the SIGTERM below, and it saves.
        process = subprocess.Popen(
            [*command, *options, "--run-dir", str(trial.directory)],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        code = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    said = trial.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = said[-1] if said else "it printed nothing"
    for error in (BudgetReached, Interrupted, RecipeError):
        if code == error.exit_code:
            raise error("\n".join(said[-LOG_LINES:]))
    return f"exit code {code}: {last}" if code else ""


def describe(trial: Trial, failure: str) -> dict[str, Any]:
    """A trial's settings, its Pass@1 (None without an evaluation), time and cost."""
    from vibelite.report.summary import collect_results
    from vibelite.telemetry.ledger import run_cost

    rows = collect_results(trial.directory)
    last = [row["pass_at_1"] for row in rows if row["stage"] == rows[-1]["stage"]]
    seconds, usd = run_cost(trial.directory / "ledger")
    return {
        "trial": trial.directory.name,
        "set": list(trial.settings),
        "pass_at_1": fmean(last) if last else None,
        "seconds": seconds,
        "usd": None if usd is None else float(usd),
        "failure": failure,
    }


def print_trials(trials: Sequence[Trial], rows: Sequence[Mapping[str, Any]]) -> None:
    """The trials, and which differences between those that ended are real."""
    from vibelite.commands.compare import print_differences
    from vibelite.report.compare import compare_runs
    from vibelite.tables import format_table

    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    cells = [
        [row["trial"], number(row["pass_at_1"], ".4f"), f"{row['seconds']:.1f}",
         number(row["usd"], ".4f"), row["failure"]]
        for row in rows
    ]  # fmt: skip
    print(format_table(["trial", "Pass@1", "s", "$", ""], cells))
    ended = {
        row["trial"]: trial.directory
        for trial, row in zip(trials, rows, strict=True)
        if row["pass_at_1"] is not None
    }
    if len(ended) > 1:
        print_differences(compare_runs(ended))
