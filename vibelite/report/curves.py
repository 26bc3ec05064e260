"""Which numbers of steps.jsonl become which charts. A metric that no chart names gets its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from markupsafe import Markup

from vibelite.report.charts import Series, line_chart, spans_chart
from vibelite.report.run_data import RunData
from vibelite.units import GIB

FRACTION = (0.0, 1.0)
FROM_ZERO = (0.0, None)
Line = Mapping[str, Any]
"""A line of steps.jsonl."""


@dataclass(frozen=True, slots=True)
class ChartPlan:
    """One chart: number -> label. With several runs, each number gets a chart of its own."""

    title: str
    metrics: dict[str, str]
    y_range: tuple[float, float | None] | None = None
    """The ends of the axis; None = those of the values."""
    is_noisy: bool = True
    is_shown_at_zero: bool = True
    """Whether the chart is of interest where all its values are 0."""
    is_shown_alone: bool = True
    """Whether it is drawn for a single run, whose time and money are drawn by span."""


PLANS = (
    ChartPlan("SFT loss, nats per token", {"sft/loss": "loss"}),
    ChartPlan("Reward, mean", {"reward/mean": "reward"}, FRACTION),
    ChartPlan(
        "Groups by outcome (only mixed ones have a gradient)",
        {
            "groups/mixed": "mixed",
            "groups/all_correct": "all correct",
            "groups/all_wrong": "all wrong",
        },
        FRACTION,
    ),
    ChartPlan("MaxEnt weight of mixed groups, mean", {"maxent/weight_mean": "weight"}, FRACTION),
    ChartPlan("Policy entropy, nats per token", {"policy/entropy": "entropy"}),
    ChartPlan("Completion length, tokens", {"completion/mean_tokens": "tokens"}),
    ChartPlan("Completions cut off", {"completion/truncated": "share"}, FRACTION),
    ChartPlan(
        "Completions without a verdict, by what kept the verifier from it",
        {
            "verify/failures_timeout": "timeout",
            "verify/failures_crash": "crash",
            "verify/failures_exception": "exception",
            "verify/unverifiable": "unverifiable",
        },
        is_noisy=False,
        is_shown_at_zero=False,
    ),
    ChartPlan("Policy loss", {"policy/loss": "loss"}),
    ChartPlan("Tokens clipped", {"policy/clip_fraction": "share"}),
    ChartPlan("KL to the reference, nats per token", {"policy/kl": "kl"}),
    ChartPlan("Trainer - sampler log-prob, mean |nats|", {"mismatch/mean_abs": "mean"}),
    ChartPlan("Trainer - sampler log-prob, max |nats|", {"mismatch/max_abs": "max"}),
    ChartPlan("Trainer - sampler, k3 estimate of KL", {"mismatch/k3": "k3"}),
    ChartPlan(
        "Effective share of the samples", {"mismatch/effective_sample_share": "share"}, FRACTION
    ),
    ChartPlan("Gradient norm before clipping", {"optimizer/grad_norm": "norm"}),
    ChartPlan("Learning rate", {"optimizer/lr": "lr"}, is_noisy=False),
    ChartPlan("Tokens of a step", {"sft/tokens": "tokens"}),
    ChartPlan("Tokens generated per second", {"rollout/tokens_per_second": "tokens"}),
    ChartPlan("Tokens trained per second", {"step/trained_per_second": "tokens"}, FROM_ZERO),
    ChartPlan("Seconds per step", {"step/seconds": "s"}, FROM_ZERO, is_shown_alone=False),
    ChartPlan("USD per step", {"step/usd": "USD"}, FROM_ZERO, is_shown_alone=False),
    ChartPlan("Peak memory, GiB", {"step/peak_gib": "GiB"}, FROM_ZERO),
)

# What runs are compared by when they are to have used as much: the first that a stage records.
PROGRESS = ("reward/mean", "sft/loss")


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


def stage_charts(runs: Sequence[RunData]) -> list[tuple[str, list[Markup]]]:
    """(stage, its charts) for every stage with steps; the runs' stages of one name share charts."""
    names = dict.fromkeys(stage.name for run in runs for stage in run.stages if stage.steps)
    charts = []
    for name in names:
        steps = {
            run.name: stage.steps for run in runs for stage in run.stages if stage.name == name
        }
        drawn = draw_stage(steps)
        drawn += draw_equal_cost(steps) if len(runs) > 1 else [spans_chart(steps[runs[0].name])]
        charts.append((name, [chart for chart in drawn if chart]))
    return charts


def draw_stage(steps: Mapping[str, Sequence[Line]]) -> list[Markup]:
    """Charts of one stage; `steps`: run -> its lines. "" for a number that is not there."""
    numbers = {
        run: [(line["step"], numbers_of(line)) for line in lines] for run, lines in steps.items()
    }
    recorded = dict.fromkeys(key for lines in numbers.values() for _, line in lines for key in line)
    return [draw_plan(plan, numbers) for plan in chart_plans(list(recorded), len(steps))]


def draw_equal_cost(steps: Mapping[str, Sequence[Line]]) -> list[Markup]:
    """The stage's progress over tokens (generated and trained) and over USD since its start."""
    recorded = {key for lines in steps.values() for line in lines for key in line["metrics"]}
    progress = next((key for key in PROGRESS if key in recorded), None)
    if progress is None:
        return []
    (plan,) = [plan for plan in PLANS if progress in plan.metrics]
    priced = [all(line["usd"] is not None for line in lines) for lines in steps.values()]

    def series(amount: Callable[[Line], float], shown: Sequence[bool]) -> list[Series]:
        return [
            Series(run, running_total(lines, progress, amount), color)
            for color, (run, lines) in enumerate(steps.items())
            if shown[color]
        ]

    tokens = series(used_tokens, [True] * len(steps))
    usd = series(lambda line: line["usd"], priced)
    return [
        line_chart(f"{plan.title}, at equal tokens", tokens, x_label="tokens"),
        line_chart(f"{plan.title}, at equal cost", usd, x_label="USD"),
    ]


def used_tokens(line: Line) -> float:
    return line["tokens"].get("generated", 0) + line["tokens"].get("trained", 0)


def running_total(
    lines: Sequence[Line], metric: str, amount: Callable[[Line], float]
) -> list[tuple[float, float]]:
    """(sum of `amount` up to and with the step, the step's metric) for the steps that have it."""
    totals = accumulate(map(amount, lines))
    return [
        (total, line["metrics"][metric])
        for total, line in zip(totals, lines, strict=True)
        if metric in line["metrics"]
    ]


def chart_plans(recorded: Sequence[str], num_runs: int) -> list[ChartPlan]:
    """The plans for the numbers that were recorded, every one of them in exactly one plan."""
    subdomains = [key for key in recorded if key.startswith("reward/") and key != "reward/mean"]
    plans = list(PLANS)
    if subdomains:
        labels = {key: key.removeprefix("reward/") for key in subdomains}
        plans.insert(2, ChartPlan("Reward by sub-domain", labels, FRACTION))
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
    return line_chart(plan.title, series, y_range=y_range, is_noisy=plan.is_noisy)


def fitting_range(plan: ChartPlan, values: Sequence[float]) -> tuple[float, float] | None:
    """The plan's range, unless a value lies outside: rewards need not end at 1."""
    if plan.y_range is None or not values:
        return None
    low, high = plan.y_range
    high = max(values) if high is None else high
    return (low, high) if low <= min(values) and max(values) <= high else None
