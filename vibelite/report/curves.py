"""Which numbers of steps.jsonl become which charts. A metric that no chart names gets its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from markupsafe import Markup

from vibelite.report.charts import Series, line_chart
from vibelite.report.run_data import RunData
from vibelite.report.texts import evenly_spaced
from vibelite.units import GIB

# More than the pixels of a chart show.
MAX_POINTS = 1000

Line = Mapping[str, Any]
"""A line of steps.jsonl."""
Group = Literal["Learning", "Health", "Speed and money", "More"]


@dataclass(frozen=True, slots=True)
class Chart:
    """The numbers of one chart. With several runs, each number gets a chart of its own."""

    title: str
    keys: Sequence[str]
    """A key that ends in "/" stands for all that begin with it and have no other chart."""
    hint: str = ""
    """What is good, in a few words."""


CHARTS: dict[Group, list[Chart]] = {
    "Learning": [
        Chart("SFT loss, nats per token", ["sft/loss"], "falls"),
        Chart(
            "Reward, mean",
            ["reward/mean"],
            "rises; noisy from step to step, so look at the running mean",
        ),
        Chart("Reward by sub-domain", ["reward/"]),
        Chart(
            "Groups by outcome",
            ["groups/mixed", "groups/all_correct", "groups/all_wrong"],
            "many mixed: only they have a gradient",
        ),
        Chart(
            "Completion length, tokens",
            ["completion/mean_tokens"],
            "steady, or growing with the reward",
        ),
    ],
    "Health": [
        Chart(
            "Groups whose rewards differ",
            ["groups/signal"],
            "well above 0: the others teach nothing",
        ),
        Chart(
            "Policy entropy, nats per token",
            ["policy/entropy"],
            "falls slowly; near 0 the completions of a problem are alike",
        ),
        Chart(
            "Completions cut off",
            ["completion/truncated"],
            "near 0: what is cut off counts as wrong",
        ),
        Chart(
            "Completions without a verdict, by what kept the verifier from it",
            [f"verify/failures_{kind}" for kind in ("timeout", "crash", "exception")]
            + ["verify/unverifiable"],
            "none",
        ),
        Chart(
            "Gradient norm before clipping",
            ["optimizer/grad_norm"],
            "no spikes of ten times the usual",
        ),
        Chart(
            "Trainer - sampler, k3 estimate of KL",
            ["mismatch/k3"],
            "below 0.01: the sampler is the policy that is trained",
        ),
    ],
    "Speed and money": [
        Chart("Tokens generated per second", ["rollout/tokens_per_second"]),
        Chart("Tokens trained per second", ["step/trained_per_second"]),
        Chart("Seconds per step, by span", ["span/"]),
        Chart("USD per step", ["step/usd"]),
        Chart("Peak memory, GiB", ["step/peak_gib"]),
        Chart("Share of the time in which the GPUs work", ["step/gpu_use"], "near 1"),
    ],
    "More": [
        Chart("MaxEnt weight of mixed groups, mean", ["maxent/weight_mean"]),
        Chart("Policy loss", ["policy/loss"]),
        Chart("Tokens clipped", ["policy/clip_fraction"]),
        Chart("KL to the reference, nats per token", ["policy/kl"]),
        Chart("Trainer - sampler log-prob, mean |nats|", ["mismatch/mean_abs"]),
        Chart("Trainer - sampler log-prob, max |nats|", ["mismatch/max_abs"]),
        Chart("Effective share of the samples", ["mismatch/effective_sample_share"]),
        Chart("Learning rate", ["optimizer/lr"]),
        Chart("Tokens of a step", ["sft/tokens"]),
    ],
}
NAMED = {key for charts in CHARTS.values() for chart in charts for key in chart.keys}


def numbers_of(line: Line) -> dict[str, float]:
    """The metrics of a step, and what its line says of speed, money and memory where known."""
    seconds, total = line["seconds"], sum(line["seconds"].values())
    training = sum(seconds.get(span, 0.0) for span in ("train", "optimizer"))
    facts = {
        "step/trained_per_second": line["tokens"].get("trained", 0) / training if training else 0,
        "step/usd": line["usd"],
        "step/peak_gib": max(line["peak_bytes"].values()) / GIB,
        "span/all": total,
        **{f"span/{name}": value for name, value in seconds.items() if value > total / 100},
    }
    numbers = line["metrics"] | {name: value for name, value in facts.items() if value}
    # Where it was measured: a GPU that did nothing is worth seeing.
    use = line.get("gpu_use")
    return numbers if use is None else numbers | {"step/gpu_use": use}


@dataclass(frozen=True, slots=True)
class StageCharts:
    """The charts of a stage by group, and for each run what its lines can be drawn over."""

    name: str
    axes: list[dict[str, list[float]]]
    groups: dict[Group, list[Markup]]


def stage_charts(runs: Sequence[RunData]) -> Iterator[StageCharts]:
    """Of every stage with steps; the runs' stages of one name share charts."""
    for name in dict.fromkeys(stage.name for run in runs for stage in run.stages if stage.steps):
        steps = {
            run.name: stage.steps for run in runs for stage in run.stages if stage.name == name
        }
        axes = [x_values(lines) for lines in steps.values()]
        yield StageCharts(name, axes, draw_stage(steps))


def x_values(lines: Sequence[Line]) -> dict[str, list[float]]:
    """What was used up to and with each line that is drawn; USD only where all is priced."""
    used = {
        "tokens": [
            line["tokens"].get("generated", 0) + line["tokens"].get("trained", 0) for line in lines
        ],
        "seconds": [sum(line["seconds"].values()) for line in lines],
    }
    if all(line["usd"] is not None for line in lines):
        used["USD"] = [line["usd"] for line in lines]
    totals = {name: accumulate(amounts) for name, amounts in used.items()}
    axes = {"step": [line["step"] for line in lines], **totals}
    return {
        name: [float(f"{value:.6g}") for value in evenly_spaced(list(values), MAX_POINTS)]
        for name, values in axes.items()
    }


def draw_stage(steps: Mapping[str, Sequence[Line]]) -> dict[Group, list[Markup]]:
    """The charts of one stage; `steps`: run -> its lines."""
    shown = {run: evenly_spaced(lines, MAX_POINTS) for run, lines in steps.items()}
    numbers = {run: [numbers_of(line) for line in lines] for run, lines in shown.items()}
    recorded = [*dict.fromkeys(key for lines in numbers.values() for one in lines for key in one)]
    drawn: dict[Group, list[Markup]] = {}
    for group, charts in plan_charts(recorded, len(steps)).items():
        for chart in charts:
            series = [
                Series(
                    run if len(steps) > 1 else label_of(key),
                    [line["step"] for line in shown[run]],
                    [line.get(key, 0.0 if key.startswith("span/") else None) for line in lines],
                    color=index if len(steps) > 1 else color,
                    run=index,
                )
                for index, (run, lines) in enumerate(numbers.items())
                for color, key in enumerate(chart.keys)
            ]
            # That nothing was learned is to be seen; of the rest, what never happened is left out.
            if group == "Learning" or any(any(one.values) for one in series):
                drawn.setdefault(group, []).append(line_chart(chart.title, series, hint=chart.hint))
    return drawn


def label_of(key: str) -> str:
    """groups/all_wrong -> all wrong"""
    return key.partition("/")[2].replace("_", " ")


def plan_charts(recorded: Sequence[str], num_runs: int) -> dict[Group, list[Chart]]:
    """The charts of the numbers that were recorded, every one of them in exactly one."""
    others = [key for key in recorded if key not in NAMED]
    families = {key for key in NAMED if key.endswith("/")}
    planned: dict[Group, list[Chart]] = {}
    for group, charts in CHARTS.items():
        for chart in charts:
            keys = [key for key in chart.keys if key in recorded]
            if chart.keys[0] in families:
                keys = [key for key in others if key.startswith(chart.keys[0])]
            parts = [keys] if num_runs == 1 else [[key] for key in keys]
            for part in filter(None, parts):
                is_part = len(part) < len(keys)
                title = f"{chart.title}: {label_of(part[0])}" if is_part else chart.title
                planned.setdefault(group, []).append(Chart(title, part, chart.hint))
    rest = [key for key in others if not key.startswith(tuple(families))]
    planned.setdefault("More", []).extend(Chart(key, [key]) for key in rest)
    return planned
