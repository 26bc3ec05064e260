"""Which metrics of steps.jsonl become which charts. A metric that no chart names gets its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from vibelite.report.charts import Series, line_chart
from vibelite.report.run_data import RunData
from vibelite.report.stacked_bars import spans_chart
from vibelite.units import GIB

FRACTION = (0.0, 1.0)


@dataclass(frozen=True, slots=True)
class ChartPlan:
    """One chart: metric -> label. With several runs, each metric gets a chart of its own."""

    title: str
    metrics: dict[str, str]
    y_range: tuple[float, float] | None = None
    is_noisy: bool = True
    is_shown_at_zero: bool = True
    """Whether the chart is of interest where all its values are 0."""


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
)

# What runs are compared by when they are to have used as much: the first that a stage records.
PROGRESS = ("reward/mean", "sft/loss")

# Facts of a step that are not metrics.
Fact = Callable[[Mapping[str, Any]], float | None]
FACTS: tuple[tuple[str, Fact], ...] = (
    ("Tokens trained per second", lambda step: training_speed(step)),
    ("Seconds per step", lambda step: sum(step["seconds"].values())),
    ("USD per step", lambda step: step["usd"]),
    ("Peak memory, GiB", lambda step: max(step["peak_bytes"].values()) / GIB),
)
# Of one run: drawn by span instead.
DRAWN_BY_SPAN = ("Seconds per step", "USD per step")


def training_speed(step: Mapping[str, Any]) -> float | None:
    """Tokens per second of training; None for a step without."""
    seconds = sum(step["seconds"].get(span, 0.0) for span in ("train", "optimizer"))
    tokens = step["tokens"].get("trained", 0)
    return tokens / seconds if tokens and seconds else None


def stage_charts(runs: Sequence[RunData]) -> list[tuple[str, list[Markup]]]:
    """(stage, its charts) for every stage with steps; the runs' stages of one name share charts."""
    names = dict.fromkeys(stage.name for run in runs for stage in run.stages if stage.steps)
    charts = []
    for name in names:
        steps = {
            run.name: stage.steps for run in runs for stage in run.stages if stage.name == name
        }
        drawn = [chart for chart in draw_stage(steps) if chart]
        if len(runs) > 1:
            drawn += draw_equal_cost(steps)
        else:
            (lines,) = steps.values()
            drawn.append(spans_chart(lines))
        charts.append((name, [chart for chart in drawn if chart]))
    return charts


def draw_equal_cost(steps: Mapping[str, list[dict[str, Any]]]) -> list[Markup]:
    """The stage's progress over tokens (generated and trained) and over USD since its start."""
    recorded = {key for lines in steps.values() for line in lines for key in line["metrics"]}
    progress = next((key for key in PROGRESS if key in recorded), None)
    if progress is None:
        return []
    (plan,) = [plan for plan in PLANS if progress in plan.metrics]
    tokens = [
        Series(run, running_total(lines, progress, used_tokens), color)
        for color, (run, lines) in enumerate(steps.items())
    ]
    usd = [
        Series(run, running_total(lines, progress, lambda line: float(line["usd"])), color)
        for color, (run, lines) in enumerate(steps.items())
        if all(line["usd"] is not None for line in lines)
    ]
    return [
        line_chart(f"{plan.title}, at equal tokens", tokens, x_label="tokens"),
        line_chart(f"{plan.title}, at equal cost", usd, x_label="USD"),
    ]


def used_tokens(line: Mapping[str, Any]) -> float:
    return line["tokens"].get("generated", 0) + line["tokens"].get("trained", 0)


def running_total(
    lines: Sequence[Mapping[str, Any]], metric: str, amount: Callable[[Mapping[str, Any]], float]
) -> list[tuple[float, float]]:
    """(sum of `amount` up to and with the step, the step's metric) for the steps that have it."""
    total, points = 0.0, []
    for line in lines:
        total += amount(line)
        if metric in line["metrics"]:
            points.append((total, line["metrics"][metric]))
    return points


def draw_stage(steps: Mapping[str, list[dict[str, Any]]]) -> list[Markup]:
    """Charts of one stage; `steps`: run -> lines of its steps.jsonl. "" for a metric not there."""
    recorded = dict.fromkeys(
        key for lines in steps.values() for line in lines for key in line["metrics"]
    )
    charts = [draw_plan(plan, steps) for plan in chart_plans(list(recorded), len(steps))]
    for title, fact in FACTS:
        if len(steps) == 1 and title in DRAWN_BY_SPAN:
            continue
        series = []
        for color, (run, lines) in enumerate(steps.items()):
            points = [(line["step"], fact(line)) for line in lines]
            known = [(step, value) for step, value in points if value is not None]
            series.append(Series(run, known, color))
        highest = max((value for one in series for _, value in one.points), default=0.0)
        charts.append(line_chart(title, series, y_range=(0.0, highest)))
    return charts


def chart_plans(recorded: Sequence[str], num_runs: int) -> list[ChartPlan]:
    """The plans for the metrics that were recorded, every one of them in exactly one plan."""
    subdomains = [key for key in recorded if key.startswith("reward/") and key != "reward/mean"]
    plans = list(PLANS)
    if subdomains:
        labels = {key: key.removeprefix("reward/") for key in subdomains}
        plans.insert(2, ChartPlan("Reward by sub-domain", labels, FRACTION))
    named = {key for plan in plans for key in plan.metrics}
    plans += [ChartPlan(key, {key: key}) for key in recorded if key not in named]
    if num_runs == 1:
        return plans
    return [
        replace(
            plan,
            title=f"{plan.title}: {label}" if len(plan.metrics) > 1 else plan.title,
            metrics={key: label},
        )
        for plan in plans
        for key, label in plan.metrics.items()
    ]


def draw_plan(plan: ChartPlan, steps: Mapping[str, list[dict[str, Any]]]) -> Markup:
    """The chart of one plan: a series per metric, or per run when there are several."""
    series = []
    for run, lines in steps.items():
        for key, label in plan.metrics.items():
            points = [
                (line["step"], line["metrics"][key]) for line in lines if key in line["metrics"]
            ]
            series.append(Series(run if len(steps) > 1 else label, points, len(series)))
    if not plan.is_shown_at_zero and not any(y for one in series for _, y in one.points):
        return Markup("")
    return line_chart(
        plan.title, series, y_range=fitting_range(plan, series), is_noisy=plan.is_noisy
    )


def fitting_range(plan: ChartPlan, series: Sequence[Series]) -> tuple[float, float] | None:
    """The plan's range, unless a value lies outside: rewards need not end at 1."""
    if plan.y_range is None:
        return None
    low, high = plan.y_range
    inside = all(low <= y <= high for one in series for _, y in one.points)
    return plan.y_range if inside else None
