"""Which numbers of steps.jsonl become which charts. A metric that no chart names gets its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Literal, get_args

from markupsafe import Markup

from vibelite.report.charts import Series, line_chart, spans_chart
from vibelite.report.run_data import RunData
from vibelite.report.texts import evenly_spaced
from vibelite.units import GIB

FRACTION = (0.0, 1.0)
FROM_ZERO = (0.0, None)
Line = Mapping[str, Any]
"""A line of steps.jsonl."""


Group = Literal["Learning", "Health", "Speed and money", "More"]


@dataclass(frozen=True, slots=True)
class ChartPlan:
    """One chart: number -> label. With several runs, each number gets a chart of its own."""

    title: str
    metrics: dict[str, str]
    y_range: tuple[float, float | None] | None = None
    """The ends of the axis; None = those of the values."""
    group: Group = "More"
    hint: str = ""
    """What is good, in a few words."""
    is_noisy: bool = True
    is_shown_at_zero: bool = True
    """Whether the chart is of interest where all its values are 0."""
    is_shown_alone: bool = True
    """Whether it is drawn for a single run, whose time and money are drawn by span."""


PLANS = (
    ChartPlan("SFT loss, nats per token", {"sft/loss": "loss"}, group="Learning", hint="falls"),
    ChartPlan(
        "Reward, mean",
        {"reward/mean": "reward"},
        FRACTION,
        group="Learning",
        hint="rises; noisy from step to step, so look at the running mean",
    ),
    ChartPlan(
        "Groups by outcome",
        {
            "groups/mixed": "mixed",
            "groups/all_correct": "all correct",
            "groups/all_wrong": "all wrong",
        },
        FRACTION,
        group="Learning",
        hint="many mixed: only they have a gradient",
    ),
    ChartPlan(
        "Completion length, tokens",
        {"completion/mean_tokens": "tokens"},
        group="Learning",
        hint="steady, or growing with the reward",
    ),
    ChartPlan(
        "Groups whose rewards differ",
        {"groups/signal": "share"},
        FRACTION,
        group="Health",
        hint="well above 0: the others teach nothing",
    ),
    ChartPlan(
        "Policy entropy, nats per token",
        {"policy/entropy": "entropy"},
        group="Health",
        hint="falls slowly; near 0 the completions of a problem are alike",
    ),
    ChartPlan(
        "Completions cut off",
        {"completion/truncated": "share"},
        FRACTION,
        group="Health",
        hint="near 0: what is cut off counts as wrong",
    ),
    ChartPlan(
        "Completions without a verdict, by what kept the verifier from it",
        {
            "verify/failures_timeout": "timeout",
            "verify/failures_crash": "crash",
            "verify/failures_exception": "exception",
            "verify/unverifiable": "unverifiable",
        },
        group="Health",
        hint="none",
        is_noisy=False,
        is_shown_at_zero=False,
    ),
    ChartPlan(
        "Gradient norm before clipping",
        {"optimizer/grad_norm": "norm"},
        group="Health",
        hint="no spikes of ten times the usual",
    ),
    ChartPlan(
        "Trainer - sampler, k3 estimate of KL",
        {"mismatch/k3": "k3"},
        group="Health",
        hint="below 0.01: the sampler is the policy that is trained",
    ),
    ChartPlan(
        "Tokens generated per second",
        {"rollout/tokens_per_second": "tokens"},
        group="Speed and money",
    ),
    ChartPlan(
        "Tokens trained per second",
        {"step/trained_per_second": "tokens"},
        FROM_ZERO,
        group="Speed and money",
    ),
    ChartPlan(
        "Seconds per step",
        {"step/seconds": "s"},
        FROM_ZERO,
        group="Speed and money",
        is_shown_alone=False,
    ),
    ChartPlan(
        "USD per step",
        {"step/usd": "USD"},
        FROM_ZERO,
        group="Speed and money",
        is_shown_alone=False,
    ),
    ChartPlan("Peak memory, GiB", {"step/peak_gib": "GiB"}, FROM_ZERO, group="Speed and money"),
    ChartPlan("MaxEnt weight of mixed groups, mean", {"maxent/weight_mean": "weight"}, FRACTION),
    ChartPlan("Policy loss", {"policy/loss": "loss"}),
    ChartPlan("Tokens clipped", {"policy/clip_fraction": "share"}),
    ChartPlan("KL to the reference, nats per token", {"policy/kl": "kl"}),
    ChartPlan("Trainer - sampler log-prob, mean |nats|", {"mismatch/mean_abs": "mean"}),
    ChartPlan("Trainer - sampler log-prob, max |nats|", {"mismatch/max_abs": "max"}),
    ChartPlan(
        "Effective share of the samples", {"mismatch/effective_sample_share": "share"}, FRACTION
    ),
    ChartPlan("Learning rate", {"optimizer/lr": "lr"}, is_noisy=False),
    ChartPlan("Tokens of a step", {"sft/tokens": "tokens"}),
)

# More steps than these are left out of what the other axes are drawn by.
MAX_AMOUNTS = 200


def numbers_of(line: Line) -> dict[str, float]:
    """The metrics of a step, and what its line says of speed, money and memory where known."""
    training = sum(line["seconds"].get(span, 0.0) for span in ("train", "optimizer"))
    facts = {
        "step/trained_per_second": line["tokens"].get("trained", 0) / training if training else 0,
        "step/seconds": sum(line["seconds"].values()),
        "step/usd": line["usd"],
        "step/peak_gib": max(line["peak_bytes"].values()) / GIB,
    }
    return line["metrics"] | {name: value for name, value in facts.items() if value}


def stage_charts(runs: Sequence[RunData]) -> list[tuple[str, dict[Group, list[Markup]], str]]:
    """(stage, its charts by group, `amounts_of` each run as JSON) for every stage with steps; the
    runs' stages of one name share charts.
    """
    names = dict.fromkeys(stage.name for run in runs for stage in run.stages if stage.steps)
    charts = []
    for name in names:
        steps = {
            run.name: stage.steps for run in runs for stage in run.stages if stage.name == name
        }
        drawn = draw_stage(steps)
        if len(runs) == 1:
            drawn["Speed and money"].insert(0, spans_chart(steps[runs[0].name]))
        shown = {group: [one for one in figures if one] for group, figures in drawn.items()}
        amounts = json.dumps([amounts_of(lines) for lines in steps.values()])
        charts.append(
            (name, {group: figures for group, figures in shown.items() if figures}, amounts)
        )
    return charts


def draw_stage(steps: Mapping[str, Sequence[Line]]) -> dict[Group, list[Markup]]:
    """Charts of one stage; `steps`: run -> its lines. "" for a number that is not there."""
    numbers = {
        run: [(line["step"], numbers_of(line)) for line in lines] for run, lines in steps.items()
    }
    recorded = dict.fromkeys(key for lines in numbers.values() for _, line in lines for key in line)
    drawn: dict[Group, list[Markup]] = {group: [] for group in get_args(Group)}
    for plan in chart_plans(list(recorded), len(steps)):
        drawn[plan.group].append(draw_plan(plan, numbers))
    return drawn


def used_tokens(line: Line) -> float:
    return sum(line["tokens"].get(kind, 0) for kind in ("generated", "trained"))


def amounts_of(lines: Sequence[Line]) -> dict[str, list[float]]:
    """What a stage had used after its steps, at most MAX_AMOUNTS of them: the other axes of its
    charts. Without a price there is no USD.
    """
    sums: dict[str, list[float]] = {
        "step": [line["step"] for line in lines],
        "tokens": list(accumulate(map(used_tokens, lines))),
        "minutes": list(accumulate(sum(line["seconds"].values()) / 60 for line in lines)),
    }
    if all(line["usd"] is not None for line in lines):
        sums["USD"] = list(accumulate(line["usd"] for line in lines))
    return {
        unit: [float(f"{value:.6g}") for value in evenly_spaced(values, MAX_AMOUNTS)]
        for unit, values in sums.items()
    }


def chart_plans(recorded: Sequence[str], num_runs: int) -> list[ChartPlan]:
    """The plans for the numbers that were recorded, every one of them in exactly one plan."""
    subdomains = [key for key in recorded if key.startswith("reward/") and key != "reward/mean"]
    plans = list(PLANS)
    if subdomains:
        labels = {key: key.removeprefix("reward/") for key in subdomains}
        plans.insert(2, ChartPlan("Reward by sub-domain", labels, FRACTION, group="Learning"))
    named = {key for plan in plans for key in plan.metrics}
    plans += [ChartPlan(key, {key: key}) for key in recorded if key not in named]
    if num_runs == 1:
        return [plan for plan in plans if plan.is_shown_alone]
    return [
        replace(
            plan,
            title=f"{plan.title}: {label}" if len(plan.metrics) > 1 else plan.title,
            metrics={key: label},
        )
        for plan in plans
        for key, label in plan.metrics.items()
    ]


def draw_plan(
    plan: ChartPlan, numbers: Mapping[str, Sequence[tuple[int, Mapping[str, float]]]]
) -> Markup:
    """The chart of one plan from run -> (step, its numbers): a series per number, or per run."""
    series = []
    for run, lines in numbers.items():
        for key, label in plan.metrics.items():
            points = [(step, line[key]) for step, line in lines if key in line]
            series.append(Series(run if len(numbers) > 1 else label, points, len(series)))
    values = [y for one in series for _, y in one.points]
    if not plan.is_shown_at_zero and not any(values):
        return Markup("")
    y_range = fitting_range(plan, values)
    return line_chart(plan.title, series, y_range=y_range, is_noisy=plan.is_noisy, hint=plan.hint)


def fitting_range(plan: ChartPlan, values: Sequence[float]) -> tuple[float, float] | None:
    """The plan's range, unless a value lies outside: rewards need not end at 1."""
    if plan.y_range is None or not values:
        return None
    low, high = plan.y_range
    high = max(values) if high is None else high
    return (low, high) if low <= min(values) and max(values) <= high else None
