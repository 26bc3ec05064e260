"""The trials of a sweep: which there are, one of them as a run in a process of its own, followed by
its curve, and what they came to. Optuna remembers them in a file and says which are not worth their
rest; everything else about a trial is in its run directory.
"""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from statistics import fmean
from typing import Any

from vibelite.errors import BudgetReached, Interrupted, RecipeError, VibeLiteError
from vibelite.recipe.schema import Recipe
from vibelite.recipe.stage_section import MGPOStage, SFTStage
from vibelite.report.summary import collect_results
from vibelite.rewards.sandbox_confine import die_with_parent
from vibelite.run_dir import read_jsonl
from vibelite.run_lock import locked
from vibelite.telemetry.ledger import run_cost

RUN = (sys.executable, "-m", "vibelite", "run")
POLL_SECONDS = 0.5
# A curve's point is the mean of so many steps: single steps are mostly noise.
WINDOW_STEPS = 10
# No trial is stopped before this share of its steps, in which learning rates still rise, and none
# before so many trials have ended.
WARMUP_SHARE = 0.2
FULL_TRIALS = 2
# How long the process of a sweep that was killed may take to save its run.
SECONDS_TO_FREE = 300.0
LOG_LINES = 5


@dataclass(frozen=True, slots=True)
class Goal:
    """What a trial is followed by, and, where no stage evaluates, judged by: `sign` x the metric
    `key` of a stage's steps; larger is better.
    """

    stage: str
    key: str
    sign: float
    num_steps: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A sweep: the recipe, what is set in all trials, and the values (YAML) that are tried."""

    recipe: Path
    overrides: Sequence[str]
    over: Mapping[str, Sequence[str]]
    goal: Goal
    directory: Path
    budget_usd: Decimal | None = None

    def run_dir(self, name: str) -> Path:
        return self.directory / name


def goal_of(recipe: Recipe) -> Goal:
    """The reward of the last stage of reinforcement learning, else the loss of the last SFT."""
    for kind, key, sign in ((MGPOStage, "reward/mean", 1.0), (SFTStage, "sft/loss", -1.0)):
        stages = [stage for stage in recipe.stages if isinstance(stage, kind)]
        if stages:
            return Goal(stages[-1].name, key, sign, stages[-1].num_steps)
    raise RecipeError("the recipe trains nothing: a sweep follows a stage of kind mgpo or sft")


def open_study(plan: Plan, num_trials: int | None) -> Any:
    """The study in the sweep's directory, new or as it was left: without `num_trials` every
    combination of the values waits in it, else Optuna chooses so many by what earlier ones came to.
    What was under way when an earlier process ended waits again, with its directory.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalStorage
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plan.directory.mkdir(parents=True, exist_ok=True)
    path = plan.directory / "study.log"
    is_new = not path.exists()
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(path))),
        sampler=optuna.samplers.TPESampler(seed=0),
        pruner=optuna.pruners.MedianPruner(
            n_startup_trials=FULL_TRIALS, n_warmup_steps=int(WARMUP_SHARE * plan.goal.num_steps)
        ),
        study_name="sweep",
        direction="maximize",
        load_if_exists=True,
    )
    waiting = {
        trial.user_attrs.get("directory")
        for trial in study.get_trials(states=(TrialState.WAITING,))
    }
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        # In this order: a process that ends between the two leaves a trial too many, not too few.
        if trial.user_attrs.get("directory") not in waiting:
            study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)
        study.tell(trial.number, state=TrialState.FAIL)
    if is_new and num_trials is None:
        for number, values in enumerate(itertools.product(*plan.over.values())):
            chosen = dict(zip(plan.over, values, strict=True))
            study.enqueue_trial(chosen, user_attrs={"directory": f"trial-{number:03d}"})
    return study


def next_trial(study: Any, plan: Plan, num_trials: int | None) -> Any:
    """The next trial to run, with its values and its directory; None when there is none."""
    from optuna.trial import TrialState

    is_waiting = bool(study.get_trials(states=(TrialState.WAITING,)))
    if not is_waiting and len(outcomes(study, plan)) >= (num_trials or 0):
        return None
    trial = study.ask()
    for key, values in plan.over.items():
        trial.suggest_categorical(key, list(values))
    if "directory" not in trial.user_attrs:
        trial.set_user_attr("directory", f"trial-{len(outcomes(study, plan)) - 1:03d}")
    return trial


def run_trial(study: Any, trial: Any, plan: Plan) -> None:
    """Runs a trial to its end, or to where its curve says that it is not worth it.

    Raises BudgetReached and Interrupted, with the run saved; the trial then waits for the next
    process. A run that fails is noted, and is no trial to judge by.
    """
    from optuna.trial import TrialState

    directory = plan.run_dir(trial.user_attrs["directory"])
    wait_until_free(directory)
    command = [*RUN, str(plan.recipe)]
    for setting in settings_of(trial, plan):
        command += ["--set", setting]
    log = directory.with_suffix(".log")
    with running([*command, "--run-dir", str(directory)], log) as process:
        is_pruned = follow(process, trial, directory, plan.goal)
    match process.returncode:
        case _ if is_pruned:
            study.tell(trial, state=TrialState.PRUNED)
        case 0:
            study.tell(trial, value_of(directory, plan.goal))
        case BudgetReached.exit_code:
            raise BudgetReached(last_lines(log, 1))
        case Interrupted.exit_code:
            raise Interrupted(f"{directory} was told to stop")
        case RecipeError.exit_code:
            raise RecipeError(last_lines(log, LOG_LINES))
        case code:
            trial.set_user_attr("failure", f"exit code {code}: {last_lines(log, 1)}")
            study.tell(trial, state=TrialState.FAIL)


def settings_of(trial: Any, plan: Plan) -> list[str]:
    """The `--set` arguments of a trial's run, its part of the budget among them."""
    settings = [*plan.overrides, *(f"{key}={value}" for key, value in trial.params.items())]
    if plan.budget_usd is None:
        return settings
    spent = run_cost(plan.run_dir(trial.user_attrs["directory"]) / "ledger")[1] or Decimal(0)
    left = plan.budget_usd - spent_usd(plan)
    if left <= 0:
        raise BudgetReached(f"the sweep's budget of ${plan.budget_usd} is spent")
    return [*settings, f"budget.usd={spent + left}"]


def spent_usd(plan: Plan) -> Decimal:
    """What all trials have cost, stopped and interrupted ones included."""
    sums = (run_cost(path / "ledger")[1] for path in run_dirs(plan))
    return sum((usd for usd in sums if usd is not None), Decimal(0))


def run_dirs(plan: Plan) -> list[Path]:
    """The trials' run directories, as far as they have begun."""
    return [path.parent for path in sorted(plan.directory.glob("trial-*/recipe.resolved.yaml"))]


@contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command as a process that is told to stop, and waited for, if it still runs at the end.

    It has a session of its own, so that Ctrl-C reaches it once, through here; should this process
    be killed, it is told to stop all the same.
    """

    def stop_with_parent() -> None:
        if sys.platform == "linux":
            die_with_parent(signal.SIGTERM)

    with open(log, "ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=stop_with_parent,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def follow(process: subprocess.Popen[bytes], trial: Any, directory: Path, goal: Goal) -> bool:
    """Reports the run's curve until the process ends; True if it was stopped for it."""
    num_reported = 0
    while True:
        is_over = process.poll() is not None
        points = curve(directory, goal)
        for step, value in points[num_reported:]:
            trial.report(value, step)
            if not is_over and trial.should_prune():
                process.terminate()
                process.wait()
                return True
        num_reported = len(points)
        if is_over:
            return False
        time.sleep(POLL_SECONDS)


def curve(directory: Path, goal: Goal) -> list[tuple[int, float]]:
    """Step and mean over the last WINDOW_STEPS steps; larger is better."""
    points: list[tuple[int, float]] = []
    values: list[float] = []
    for path in directory.glob(f"stages/*-{goal.stage}/steps.jsonl"):
        for line in read_jsonl(path):
            values.append(goal.sign * line["metrics"][goal.key])
            points.append((line["step"], fmean(values[-WINDOW_STEPS:])))
    return points


def value_of(directory: Path, goal: Goal) -> float:
    """Pass@1 of the last model that was evaluated, over its benchmarks; without an evaluation the
    end of the curve.
    """
    rows = collect_results(directory)
    if rows:
        return fmean(row["pass_at_1"] for row in rows if row["stage"] == rows[-1]["stage"])
    points = curve(directory, goal)
    if not points:
        raise VibeLiteError(f"{directory}: has neither results nor steps of stage {goal.stage!r}")
    return points[-1][1]


def outcomes(study: Any, plan: Plan) -> list[dict[str, Any]]:
    """A row for every trial, by its directory: what was set, its state, value and cost."""
    from optuna.trial import TrialState

    names = {
        TrialState.COMPLETE: "complete", TrialState.PRUNED: "stopped early",
        TrialState.WAITING: "waiting", TrialState.RUNNING: "under way",
    }  # fmt: skip
    rows: dict[str, dict[str, Any]] = {}
    for trial in study.get_trials():
        failure = trial.user_attrs.get("failure")
        if trial.state == TrialState.FAIL and failure is None:
            continue  # it went on as another one
        name = trial.user_attrs.get("directory", f"number {trial.number}")
        fixed = trial.system_attrs.get("fixed_params", {})
        seconds, usd = run_cost(plan.run_dir(name) / "ledger")
        rows[name] = {
            "trial": name,
            "set": {
                key: (trial.params or fixed)[key] for key in plan.over if trial.params or fixed
            },
            "state": names.get(trial.state, "failed"),
            "value": trial.value if trial.state == TrialState.COMPLETE else None,
            "last_step": trial.last_step,
            "seconds": seconds,
            "usd": None if usd is None else float(usd),
            "failure": failure,
        }
    return [rows[name] for name in sorted(rows)]


def wait_until_free(directory: Path) -> None:
    """Returns when no process holds the run any more: one of a killed sweep may still be saving."""
    if not directory.exists():
        return
    deadline = time.monotonic() + SECONDS_TO_FREE
    while True:
        try:
            with locked(directory):
                return
        except RecipeError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)


def last_lines(log: Path, count: int) -> str:
    """The end of what a run printed."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return "\n".join(lines[-count:]) or "it printed nothing"


def as_text(value: Any) -> str:
    """A value as `--set` takes it."""
    return value if isinstance(value, str) else json.dumps(value)
