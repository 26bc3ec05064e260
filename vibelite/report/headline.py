"""What a reader has to know first of a run: what became of it, and what keeps it from learning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from ruamel.yaml import YAML

from vibelite.run_dir import read_json, read_jsonl
from vibelite.telemetry.health import CUT_OFF, WARNINGS_NAME
from vibelite.telemetry.ledger import Entry, read_ledger
from vibelite.telemetry.run_state import WINDOW, RunState, ago, read_state, seconds_left
from vibelite.units import duration

Steps = Mapping[str, Sequence[Mapping[str, Any]]]
"""Stage -> the lines of its steps.jsonl, in the order of the pipeline."""

TITLES = {
    "running": "Running",
    "finished": "Finished",
    "stopped": "Stopped",
    "budget": "Stopped by its budget",
    "failed": "Failed",
    "killed": "Killed",
    "unknown": "Last written",
}


@dataclass(frozen=True, slots=True)
class Headline:
    """What became of a run, in parts."""

    state: RunState
    where: str
    """The last step or piece of work, such as "mgpo step 40 of 200"."""
    last_step_utc: str
    """"" where there was none."""
    left: str
    """Time that a running stage still takes; "" where unknown."""
    reward: float | None = None
    """The mean of the last steps of the stage that trains on one."""

    @property
    def title(self) -> str:
        word = {"running": ",", "finished": ""}.get(self.state.state, " after")
        place = f"{word} {self.where}" if self.where and word else ""
        code = f" (exit code {self.state.exit_code})" if self.state.state == "failed" else ""
        return f"{TITLES[self.state.state]}{place}{code}"

    @property
    def times(self) -> list[tuple[str, str]]:
        """(what happened, when) of the moments worth knowing."""
        state = self.state.state
        ended = "last sign of life" if state == "killed" else "ended"
        known = [
            (ended, "" if state == "running" else self.state.utc),
            ("last step", "" if state == "finished" else self.last_step_utc),
        ]
        return [pair for pair in known if pair[1]]

    def __str__(self) -> str:
        parts = [self.title, *(f"{what} {ago(utc)}" for what, utc in self.times)]
        if self.left:
            parts.append(f"{self.left} left")
        return ", ".join(parts) + (f": {self.state.message}" if self.state.message else "")


def headline(
    run_dir: Path, ledger: Sequence[Entry] | None = None, steps_of: Steps | None = None
) -> Headline:
    """Of a run directory; its `ledger` and its steps, where they were read before."""
    ledger = read_ledger(run_dir / "ledger") if ledger is None else ledger
    steps_of = read_steps(run_dir) if steps_of is None else steps_of
    path = run_dir / "recipe.resolved.yaml"
    recipe = YAML(typ="safe").load(path.read_text(encoding="utf-8")) if path.exists() else {}
    planned = {stage["name"]: stage.get("num_steps") for stage in recipe.get("stages", [])}
    state = read_state(run_dir)
    work = [entry for entry in ledger if entry.stage in planned]
    steps = [entry for entry in work if entry.step is not None]
    where, left = work[-1].stage if work else "", ""
    if steps and steps[-1].stage == where:
        total = planned[where]
        where += f" step {steps[-1].step}" + (f" of {total}" if total else "")
        seconds = seconds_left(ledger, steps[-1].stage, total) if total else None
        if seconds and state.state == "running":
            left = duration(seconds)
    return Headline(state, where, steps[-1].utc if steps else "", left, last_reward(steps_of))


def read_steps(run_dir: Path) -> Steps:
    paths = sorted((run_dir / "stages").glob("[0-9]*-*"))
    return {path.name.partition("-")[2]: list(read_jsonl(path / "steps.jsonl")) for path in paths}


def last_reward(steps_of: Steps) -> float | None:
    """Mean reward over the last steps of the last stage that has any; None where none has."""
    for rows in reversed([*steps_of.values()]):
        rewards = [row["metrics"].get("reward/mean") for row in rows]
        if known := [reward for reward in rewards if reward is not None]:
            return fmean(known[-WINDOW:])
    return None


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that keeps a stage from learning, over all steps in which it held."""

    stage: str
    cause: str
    message: str
    """Of the last of those steps."""
    first_step: int | None = None
    """None: it holds for the stage as a whole."""
    last_step: int | None = None
    num_steps: int = 0
    is_over: bool = False
    """Whether the stage went on without it."""

    @property
    def when(self) -> str:
        if self.first_step is None:
            return self.stage
        if self.num_steps == 1:
            return f"{self.stage}, step {self.first_step}"
        return f"{self.stage}, {self.num_steps} steps from {self.first_step} to {self.last_step}"


def find_problems(
    run_dir: Path, results: Sequence[Mapping[str, Any]], steps_of: Steps | None = None
) -> list[Finding]:
    """What is wrong with a run and its `results`, what still holds first; its steps, where they
    were read before.
    """
    steps_of = read_steps(run_dir) if steps_of is None else steps_of
    found = [
        finding
        for path in sorted((run_dir / "stages").glob("[0-9]*-*"))
        for finding in stage_problems(path, steps_of.get(path.name.partition("-")[2], []))
    ]
    for row in results:
        if row.get("truncated", 0) >= CUT_OFF:
            message = (
                f"{row['truncated']:.0%} of the answers of {row['stage']} are cut off, which count "
                "as wrong: raise sampling.max_new_tokens"
            )
            found.append(Finding(f"evaluation on {row['benchmark']}", "cut off", message))
    return sorted(found, key=lambda one: one.is_over)


def stage_problems(path: Path, steps: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Of one stage's directory and its steps, oldest first."""
    stage, warnings = path.name.partition("-")[2], path / WARNINGS_NAME
    if warnings.exists():
        for cause, message in read_json(warnings).items():
            yield Finding(stage, cause, message)
    found: dict[str, Finding] = {}
    for row in steps:
        for cause, message in row.get("health", {}).items():
            step = row["step"]
            old = found.get(cause) or Finding(stage, cause, "", first_step=step)
            found[cause] = replace(
                old, message=message, last_step=step, num_steps=old.num_steps + 1
            )
    for finding in found.values():
        yield replace(finding, is_over=finding.last_step != steps[-1]["step"])
