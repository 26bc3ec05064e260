"""The tables of `benchmarks.ablations` in Markdown: every model, and every claim against its
control, with intervals paired by seed and problem.

A row of a model: seed, model, num_samples, and by problem `correct` (samples that are right) and
`tokens` (of all its samples); seconds and usd from nothing to that model.
Not here: how the rows were made.

    python -m benchmarks.ablation_table benchmarks/results/ablations_quickstart.json
    python -m benchmarks.ablation_table seed-0.json seed-1.json seed-2.json
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from vibelite.algorithms.pass_at_k import pass_at_k
from vibelite.algorithms.statistics import paired_difference
from vibelite.run_dir import read_json

K = 8
NUM_BOOTSTRAP = 5000
NOT_DISTINGUISHABLE = "not distinguishable"
# 97.5% quantiles of Student's t by degrees of freedom, for intervals over 2 to 10 seeds.
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Claim:
    """That the model `a` differs from its control `b`."""

    text: str
    a: str
    b: str


CLAIMS = (
    Claim("fusion, before RL", "fused", "best"),
    Claim("probing and fusion, before RL", "fused", "last"),
    Claim("specialists against the tail average, before RL", "fused", "tail-average"),
    Claim("RL", "full", "fused"),
    Claim("probing and fusion, after RL", "full", "no-probing"),
    Claim("fusion, after RL", "full", "best-single"),
    Claim("lambda 1 against GRPO", "full", "grpo"),
    Claim("lambda 2 against GRPO", "lambda-2", "grpo"),
    Claim("lambda 4 against GRPO", "lambda-4", "grpo"),
    Claim("lambda 8 against GRPO", "lambda-8", "grpo"),
    Claim("entropy bonus 0.01", "entropy-bonus", "full"),
    Claim("token average against sequence", "token", "full"),
    Claim("constant average against sequence", "constant", "full"),
    Claim("no standard deviation, constant average", "no-std", "full"),
    Claim("MaxRL against GRPO", "maxrl", "grpo"),
    Claim("refill, GRPO, as many tokens", "grpo-refill", "grpo"),
    Claim("refill, lambda 1, as many tokens", "full-refill", "full"),
    Claim("memory beside refill", "grpo-memory", "grpo-refill"),
    Claim("a wider upper clip, four updates", "clip-higher", "four-updates"),
    Claim("Long2Short stage against as many more steps", "long2short", "longer"),
    Claim("Long2Short stage against before it", "long2short", "full"),
)
# Order of the first table.
MODELS = (
    *("last", "tail-average", "best", "fused", "full", "no-probing", "best-single", "grpo"),
    *("lambda-2", "lambda-4", "lambda-8", "entropy-bonus", "token", "constant"),
    *("no-std", "maxrl", "grpo-refill", "full-refill", "grpo-memory", "four-updates"),
    *("clip-higher", "longer", "long2short"),
)


@dataclass(frozen=True, slots=True)
class Difference:
    """a - b: over all problems of all seeds with the 95% interval over pairs, and by seed with the
    95% t interval over seeds (None for one seed). The first holds for these training runs, the
    second for other seeds.
    """

    mean: float
    low: float
    high: float
    by_seed: tuple[float, ...]
    over_seeds: tuple[float, float] | None

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    @property
    def seeds_exclude_zero(self) -> bool:
        return self.over_seeds is not None and (self.over_seeds[0] > 0 or self.over_seeds[1] < 0)


def problem_values(row: Row, metric: str, max_tokens: int) -> list[float]:
    """By problem [P], in 0..1: Pass@1, Pass@8, or mean response tokens over `max_tokens`."""
    num_samples = row["num_samples"]
    match metric:
        case "tokens":
            return [tokens / (num_samples * max_tokens) for tokens in row["tokens"]]
        case "pass_at_1":
            return [pass_at_k(num_samples, count, 1) for count in row["correct"]]
        case "pass_at_8":
            return [pass_at_k(num_samples, count, K) for count in row["correct"]]
        case _:
            raise ValueError(f"no metric {metric!r}")


def paired_rows(rows: Sequence[Row], a: str, b: str) -> list[tuple[Row, Row]]:
    """The rows of both models of every seed that has both, in order of seeds."""
    by_name = {(row["model"], row["seed"]): row for row in rows}
    seeds = sorted({row["seed"] for row in rows})
    return [
        (by_name[a, seed], by_name[b, seed])
        for seed in seeds
        if (a, seed) in by_name and (b, seed) in by_name
    ]


def difference(pairs: Sequence[tuple[Row, Row]], metric: str, max_tokens: int) -> Difference:
    """The difference of a metric over the pairs of rows, in the unit of `problem_values`."""
    values = [
        [problem_values(row, metric, max_tokens) for row in pair] for pair in pairs
    ]  # [seeds][2][P]
    a, b = ([value for pair in values for value in pair[side]] for side in (0, 1))
    mean, low, high = paired_difference(a, b, num_bootstrap=NUM_BOOTSTRAP, seed=0)
    by_seed = tuple(fmean(first) - fmean(second) for first, second in values)
    return Difference(mean, low, high, by_seed, seed_interval(by_seed))


def seed_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95% t interval of the mean of `values`, one a seed; None for a single one."""
    if len(values) < 2:
        return None
    half = T_QUANTILES[len(values) - 2] * stdev(values) / sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def usd_per_point(pairs: Sequence[tuple[Row, Row]], gain: Difference) -> str:
    """What a point of Pass@1 cost more than the control; in words where there is no such number."""
    if not gain.excludes_zero:
        return NOT_DISTINGUISHABLE
    if gain.mean < 0:
        return "a loss"
    extra = fmean(a["usd"] - b["usd"] for a, b in pairs)
    return "nothing more" if extra <= 0 else f"{extra / (100 * gain.mean):.6f}"


def verdict(gain: Difference) -> str:
    """Whether zero is excluded: over problems, and then over seeds too."""
    if not gain.excludes_zero:
        return "no"
    if gain.over_seeds is None:
        return "over problems, one seed"
    return "yes" if gain.seeds_exclude_zero else "over problems, not over seeds"


def model_table(rows: Sequence[Row], max_tokens: int) -> str:
    """Every model: means over seeds, and the cost of a point over the last SFT checkpoint."""
    lines = [
        "| model | seeds | Pass@1 | by seed | Pass@8 | tokens | RL tokens "
        "| USD | USD a point over `last` |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in MODELS:
        own = sorted((row for row in rows if row["model"] == name), key=lambda row: row["seed"])
        if not own:
            continue
        means = {
            metric: [fmean(problem_values(row, metric, max_tokens)) for row in own]
            for metric in ("pass_at_1", "pass_at_8", "tokens")
        }
        pairs = paired_rows(rows, name, "last")
        price = "-"
        if name != "last" and pairs:
            price = usd_per_point(pairs, difference(pairs, "pass_at_1", max_tokens))
        sampled = [row["rl_tokens"] for row in own if "rl_tokens" in row]
        cells = [
            name,
            str(len(own)),
            f"{100 * fmean(means['pass_at_1']):.1f}",
            ", ".join(f"{100 * value:.1f}" for value in means["pass_at_1"]),
            f"{100 * fmean(means['pass_at_8']):.1f}",
            f"{max_tokens * fmean(means['tokens']):.1f}",
            f"{fmean(sampled):.0f}" if sampled else "-",
            f"{fmean(row['usd'] for row in own):.5f}",
            price,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def claim_table(rows: Sequence[Row], max_tokens: int) -> str:
    """Every claim of which at least one seed has both models."""
    lines = [
        "| claim | seeds | Pass@1 | over seeds | Pass@8 | tokens | Pass@1 excludes 0? "
        "| USD a point |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for claim in CLAIMS:
        pairs = paired_rows(rows, claim.a, claim.b)
        if not pairs:
            continue
        first, eighth, tokens = (
            difference(pairs, metric, max_tokens) for metric in ("pass_at_1", "pass_at_8", "tokens")
        )
        over_seeds = "-"
        if first.over_seeds:
            over_seeds = "[{:+.1f}, {:+.1f}]".format(*(100 * end for end in first.over_seeds))
        cells = [
            f"{claim.text} (`{claim.a}` - `{claim.b}`)",
            str(len(pairs)),
            scaled(first, 100),
            over_seeds,
            scaled(eighth, 100),
            scaled(tokens, max_tokens),
            verdict(first),
            usd_per_point(pairs, first),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def scaled(value: Difference, unit: float) -> str:
    """The difference and its interval in another unit; bold where it excludes zero."""
    numbers = (unit * end for end in (value.mean, value.low, value.high))
    text = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*numbers)
    return f"**{text}**" if value.excludes_zero else text


def merged_rows(reports: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The rows of several outputs, whose seeds ran one by one on machines of one kind. SystemExit
    where their settings differ or a seed is in two.
    """
    first, *others = reports
    if any(other["settings"] != first["settings"] for other in others):
        raise SystemExit("the outputs were made with different settings")
    rows = [row for report in reports for row in report["rows"]]
    if len({(row["seed"], row["model"]) for row in rows}) < len(rows):
        raise SystemExit("a seed is in two of the outputs")
    return sorted(rows, key=lambda row: row["seed"])


def tables(rows: Sequence[Row], *, max_tokens: int) -> str:
    """Both tables; `max_tokens`: the longest response, in tokens."""
    return "\n\n".join(part(rows, max_tokens) for part in (model_table, claim_table))


def main() -> None:
    parser = argparse.ArgumentParser(description="The tables of an output of benchmarks.ablations.")
    parser.add_argument("results", type=Path, nargs="+", help="of one task, each other seeds")
    reports = [read_json(path) for path in parser.parse_args().results]
    print(tables(merged_rows(reports), max_tokens=reports[0]["max_tokens"]))


if __name__ == "__main__":
    main()
