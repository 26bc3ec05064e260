"""Runs side by side: the same model of each, on the same problems, problem by problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vibelite.algorithms.statistics import NUM_BOOTSTRAP, paired_difference
from vibelite.report.run_data import model_keys
from vibelite.report.summary import collect_results
from vibelite.run_dir import read_jsonl

# (model, benchmark) -> problem -> share of its samples that are correct.
Shares = dict[tuple[str, str], dict[str, float]]


@dataclass(frozen=True, slots=True)
class Difference:
    """Pass@1 of `run` minus that of `baseline` for one model name and benchmark.

    `interval` is the paired bootstrap's over the `num_common` problems that both evaluated, of
    `num_problems` that either did.
    """

    benchmark: str
    model: str
    run: str
    baseline: str
    num_common: int
    num_problems: int
    difference: float
    interval: tuple[float, float]

    @property
    def is_distinguishable(self) -> bool:
        """Whether the interval leaves out 0."""
        return not self.interval[0] <= 0 <= self.interval[1]


def compare_runs(run_dirs: Mapping[str, Path]) -> list[Difference]:
    """Every other run of `run_dirs` (name -> directory) against the first.

    Models are paired by the name of the stage that made them; those that only one of the two
    evaluated, or on other problems, are left out.
    """
    (baseline, first), *others = [(name, solved_shares(path)) for name, path in run_dirs.items()]
    differences = []
    for (model, benchmark), ours in first.items():
        for run, shares in others:
            theirs = shares.get((model, benchmark), {})
            common = [problem for problem in ours if problem in theirs]
            if not common:
                continue
            difference, low, high = paired_difference(
                [theirs[problem] for problem in common],
                [ours[problem] for problem in common],
                num_bootstrap=NUM_BOOTSTRAP,
                seed=0,
            )
            num_problems = len({*ours, *theirs})
            names = (benchmark, model, run, baseline)
            differences.append(
                Difference(*names, len(common), num_problems, difference, (low, high))
            )
    return differences


def solved_shares(run_dir: Path) -> Shares:
    """What the finished evaluate stages of a run found, problem by problem.

    A sample counts for every row of results whose model lies in the directory of its key.
    """
    keys = model_keys(run_dir)
    rows = [
        (row, f"{row['benchmark']}--{keys[row['stage']]}")
        for row in collect_results(run_dir)
        if row["stage"] in keys
    ]
    wanted = {key for _, key in rows}
    counts: dict[str, dict[str, list[int]]] = {}
    for path in sorted((run_dir / "stages").glob("*/results.json")):
        fresh: dict[str, dict[str, list[int]]] = {}
        for sample in read_jsonl(path.parent / "samples.jsonl"):
            if sample.get("key") in wanted:
                problems = fresh.setdefault(sample["key"], {})
                count = problems.setdefault(sample["problem_id"], [0, 0])
                count[0] += sample["correct"] is True
                count[1] += 1
        counts |= fresh  # as in the results, the last evaluation of a model is the one that counts
    return {
        (row["stage"], row["benchmark"]): {
            problem: right / total for problem, (right, total) in counts.get(key, {}).items()
        }
        for row, key in rows
    }


def difference_cells(differences: Sequence[Difference]) -> list[list[str]]:
    """One line of text per difference, under HEADER, in points of Pass@1."""
    return [
        [
            one.benchmark,
            one.model,
            f"{one.run} - {one.baseline}",
            f"{100 * one.difference:+.1f}",
            " to ".join(f"{100 * end:+.1f}" for end in one.interval),
            "yes" if one.is_distinguishable else "no",
            f"{one.num_common} of {one.num_problems}"
            if one.num_common < one.num_problems
            else str(one.num_common),
        ]
        for one in differences
    ]


HEADER = ("benchmark", "model", "runs", "points", "95%", "differs", "problems")
