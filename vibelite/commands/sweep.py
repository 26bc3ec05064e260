"""`vibelite sweep`: one recipe with different settings, as runs of their own that are stopped early
where their curves say so, and compared.
"""

from __future__ import annotations

import json
import signal
import sys
from contextlib import redirect_stdout
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vibelite.errors import BudgetReached, Interrupted, RecipeError

if TYPE_CHECKING:
    from vibelite.commands.sweep_trials import Plan

EXIT_FAILED = 1


def sweep(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    over: Annotated[
        list[str], typer.Option(metavar="KEY=VALUE,...", help="What is tried; may be repeated.")
    ],
    overrides: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="The same in all trials.")
    ] = [],  # noqa: B006 - typer copies it
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="Optuna chooses so many; default: every combination."),
    ] = None,
    budget_usd: Annotated[
        float | None, typer.Option("--budget-usd", min=0, help="Of all trials together.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where the trials' runs are; default sweeps/<name>.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Runs of a recipe with different settings; the same command again goes on.

    vibelite sweep recipes/quickstart.yaml --over stages.mgpo.maxent_lambda=0,1,4 --budget-usd 1

    Each is an ordinary run, followed by its reward (without RL: by its loss): one that is worse at
    a step than the median of those that ended is stopped there. They are judged by Pass@1 of the
    last model evaluated, and compared in one report. Needs the extra `sweep`.
    """
    _require_optuna()
    plan = _plan(recipe, over, overrides, budget_usd, out)
    with redirect_stdout(sys.stderr):
        from vibelite.commands import sweep_trials

        signal.signal(signal.SIGTERM, signal.default_int_handler)
        _require_same_sweep(plan, trials)
        try:
            study = _run_all(plan, trials)
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted; the same command goes on in {plan.directory}"
            ) from None
        rows = sweep_trials.outcomes(study, plan)
        spent = float(sweep_trials.spent_usd(plan))
    finished = [row for row in rows if row["value"] is not None]
    best = max(finished, key=lambda row: row["value"], default=None)
    report = plan.directory / "report.html"
    if as_json:
        found = {"trials": rows, "best": best and best["trial"], "usd": spent}
        print(json.dumps(found | {"report": str(report)}, indent=1, ensure_ascii=False))
    else:
        _print(plan, rows, best)
        print(report)
    if any(row["state"] == "failed" for row in rows):
        raise typer.Exit(EXIT_FAILED)


def _require_optuna() -> None:
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise RecipeError(
            "vibelite sweep needs Optuna, which is not installed: pip install 'vibelite[sweep]'"
        ) from error


def _plan(
    recipe: Path, over: list[str], overrides: list[str], budget_usd: float | None, out: Path | None
) -> Plan:
    """The sweep, once every value has been seen to be one that the recipe may have."""
    from vibelite.commands.sweep_trials import Plan, as_text, goal_of
    from vibelite.recipe.load import load_recipe
    from vibelite.recipe.source import parse_value

    values: dict[str, list[str]] = {}
    for argument in over:
        key, equals, text = argument.partition("=")
        try:
            parsed = parse_value(f"[{text}]") if key and equals else []
        except ValueError as error:
            raise RecipeError(f"--over {argument}: the values are not YAML: {error}") from error
        if not parsed:
            raise RecipeError(f"--over {argument}: must be KEY=VALUE,VALUE,...")
        if key in values:
            raise RecipeError(f"--over {argument}: {key} is there twice")
        values[key] = list(dict.fromkeys(map(as_text, parsed)))
    if budget_usd is not None:
        overrides = [*overrides, f"budget.usd={budget_usd}"]
    loaded = load_recipe(recipe, overrides)
    for key, texts in values.items():
        for text in texts:
            load_recipe(recipe, [*overrides, f"{key}={text}"])
    budget = None if loaded.budget.usd is None else Decimal(str(loaded.budget.usd))
    directory = out or Path("sweeps") / loaded.name
    return Plan(recipe, overrides, values, goal_of(loaded), directory, budget)


def _require_same_sweep(plan: Plan, trials: int | None) -> None:
    """Notes what the directory's sweep is, or checks that it is this one; its budget may change."""
    from vibelite.recipe.load import load_recipe
    from vibelite.run_dir import read_json, write_json_atomic

    recipe = load_recipe(plan.recipe, plan.overrides).model_dump(mode="json")
    for free in ("budget", "cost", "checkpoint"):
        del recipe[free]
    settings = {"recipe": recipe, "over": dict(plan.over), "chosen": trials is not None}
    path = plan.directory / "sweep.json"
    if not path.exists():
        plan.directory.mkdir(parents=True, exist_ok=True)
        write_json_atomic(path, settings)
    elif read_json(path) != json.loads(json.dumps(settings)):
        raise RecipeError(
            f"{plan.directory}: holds a sweep of another recipe or over other values; name another "
            "directory with --out"
        )


def _run_all(plan: Plan, num_trials: int | None) -> Any:
    """Runs what is left of the sweep; the report is written also when it is stopped."""
    from vibelite.commands import sweep_trials
    from vibelite.report.build import write_report
    from vibelite.run_lock import locked

    with locked(plan.directory):
        study = sweep_trials.open_study(plan, num_trials)
        try:
            while (trial := sweep_trials.next_trial(study, plan, num_trials)) is not None:
                name = trial.user_attrs["directory"]
                print(f"{name}  {_settings(trial.params)}", flush=True)
                sweep_trials.run_trial(study, trial, plan)
                row = next(r for r in sweep_trials.outcomes(study, plan) if r["trial"] == name)
                print(f"{name}  {_result(row)}", flush=True)
        except BudgetReached as reason:
            raise BudgetReached(
                f"{reason}. Everything is saved in {plan.directory}: raise --budget-usd and run "
                "the same command to go on"
            ) from None
        except Interrupted as reason:
            raise Interrupted(f"{reason}; the same command goes on in {plan.directory}") from None
        finally:
            if begun := sweep_trials.run_dirs(plan):
                write_report(begun, plan.directory / "report.html")
    return study


def _print(plan: Plan, rows: list[dict[str, Any]], best: dict[str, Any] | None) -> None:
    """The trials, and which differences between those that ended are real."""
    from vibelite.report.compare import HEADER, compare_runs, difference_cells
    from vibelite.tables import format_table

    header = ["trial", *plan.over, "state", "value", "last step", "$"]
    cells = [
        [
            row["trial"] + (" *" if row is best else ""),
            *(row["set"].get(key, "") for key in plan.over),
            row["state"],
            *(_number(row[key], form) for key, form in (("value", ".4f"), ("last_step", "d"))),
            _number(row["usd"], ".4f"),
        ]
        for row in rows
    ]
    print(format_table(header, cells))
    for row in rows:
        if row["failure"]:
            print(f"{row['trial']}: {row['failure']}")
    finished = [row["trial"] for row in rows if row["value"] is not None]
    if len(finished) > 1:
        differences = compare_runs({name: plan.run_dir(name) for name in finished})
        print(format_table(HEADER, difference_cells(differences)))


def _settings(params: dict[str, str]) -> str:
    return "  ".join(f"{key}={value}" for key, value in params.items())


def _result(row: dict[str, Any]) -> str:
    value = f"value {row['value']:.4f}" if row["value"] is not None else row["state"]
    return f"{value}  {row['seconds']:.1f} s  ${_number(row['usd'], '.4f')}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
