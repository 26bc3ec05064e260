"""Runs side by side: the same model of each, on the same problems, problem by problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vibelite.algorithms.pass_at_k import pass_at_k
from vibelite.algorithms.statistics import NUM_BOOTSTRAP, paired_difference
from vibelite.report.run_data import model_keys
from vibelite.report.summary import collect_results
from vibelite.run_dir import read_jsonl

# (model, benchmark) -> problem -> [samples that are correct, samples].
Counts = dict[tuple[str, str], dict[str, list[int]]]


@dataclass(frozen=True, slots=True)
class Difference:
    """Pass@1 of `run` minus that of `baseline` on the `num_common` problems that both evaluated, of
    `num_problems` that either did, with the interval of the paired bootstrap.
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
    """Every other run of `run_dirs` (name -> directory) against the first, by models of one name
    that both evaluated on the same problems.
    """
    (baseline, first), *others = [(name, solved_counts(path)) for name, path in run_dirs.items()]
    differences = []
    for (model, benchmark), ours in first.items():
        for run, counts in others:
            theirs = counts.get((model, benchmark), {})
            counted = len(ours.keys() & theirs.keys()), len({*ours, *theirs})
            if counted[0]:
                difference, low, high = pass_difference(theirs, ours, k=1)
                names = (benchmark, model, run, baseline)
                differences.append(Difference(*names, *counted, difference, (low, high)))
    return differences


def pass_difference(
    a: Mapping[str, Sequence[int]], b: Mapping[str, Sequence[int]], *, k: int
) -> tuple[float, float, float]:
    """Pass@k of `a` minus that of `b` on the problems that both have, with its paired interval."""
    common = [problem for problem in b if problem in a]
    values = [
        [pass_at_k(counts[problem][1], counts[problem][0], k) for problem in common]
        for counts in (a, b)
    ]
    return paired_difference(*values, num_bootstrap=NUM_BOOTSTRAP, seed=0)


def verdicts_of(run_dir: Path, results: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each benchmark: what the last model that was tested gained over the one before
    it, and over the first.
    """
    counts = solved_counts(run_dir)
    said = []
    for benchmark in dict.fromkeys(row["benchmark"] for row in results):
        rows = [row for row in results if row["benchmark"] == benchmark]
        found = [(row["stage"], counts.get((row["stage"], benchmark), {})) for row in rows]
        last, *earlier = [one for one in reversed(found) if one[1]] or [("", {})]
        if not earlier:
            continue
        (before, first), ks = (earlier[0], earlier[-1]), list(rows[-1]["pass_at_k"])
        parts = [f"{last[0]} on {benchmark}: {gain(last[1], before[1], 1)} over {before[0]}"]
        parts += [gain(last[1], before[1], int(k)) for k in ks[-1:]]
        if first[0] != before[0]:
            parts.append(f"{gain(last[1], first[1], 1)} over {first[0]}")
        said.append("; ".join(parts))
    return said


def gain(a: Mapping[str, Sequence[int]], b: Mapping[str, Sequence[int]], k: int) -> str:
    """The difference of Pass@k in points, and whether it may be chance."""
    difference, low, high = (100 * value for value in pass_difference(a, b, k=k))
    told = "within noise" if low <= 0 <= high else f"95%: {low:+.1f} to {high:+.1f}"
    return f"{difference:+.1f} points of Pass@{k} ({told})"


def solved_counts(run_dir: Path) -> Counts:
    """What the finished evaluations found. A sample counts for all results of its key's model."""
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
    return {(row["stage"], row["benchmark"]): counts.get(key, {}) for row, key in rows}


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
            f"{one.num_common} of {one.num_problems}",
        ]
        for one in differences
    ]


HEADER = ("benchmark", "model", "runs", "points", "95%", "differs", "problems")
