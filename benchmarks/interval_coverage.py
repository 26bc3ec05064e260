"""How often the 95% interval over problems holds the true Pass@1 and Pass@k.

    python benchmarks/interval_coverage.py --trials 4000

A simulated model solves problem i with a probability p_i that is drawn from a Beta distribution;
an evaluation draws problems and samples. The truth is the mean over all problems of that
distribution: E[p], and E[1 - (1-p)^k] for Pass@k. Beside the bootstrap over problems (BCa, as
`vibelite eval` prints it) stands what a binomial interval over all samples would have covered.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from vibelite.algorithms.pass_at_k import pass_at_k
from vibelite.algorithms.statistics import mean_with_interval

RESULT = Path(__file__).parent / "results" / "interval_coverage.json"
LEVEL = 0.95
# Number of problems and samples of the report's benchmarks, and the shape of the difficulty.
SETTINGS = {
    "30 problems x 64 samples, any difficulty": (30, 64, (1.0, 1.0)),
    "30 problems x 64 samples, easy or hard": (30, 64, (0.3, 0.3)),
    "30 problems x 64 samples, mostly hard": (30, 64, (0.3, 1.2)),
    "198 problems x 16 samples, any difficulty": (198, 16, (1.0, 1.0)),
    "500 problems x 64 samples, mostly easy": (500, 64, (2.0, 0.3)),
}
K = 8


def true_pass_at_k(a: float, b: float, k: int) -> float:
    """1 - E[(1-p)^k] for p of Beta(a, b): the product of (b + j) / (a + b + j), j < k."""
    return float(1 - np.prod([(b + j) / (a + b + j) for j in range(k)]))


def covers(values: list[float], truth: float, num_bootstrap: int, seed: int) -> tuple[bool, float]:
    """Whether the interval of `values` [P] holds `truth`, and its width."""
    _, low, high = mean_with_interval(values, num_bootstrap=num_bootstrap, seed=seed, level=LEVEL)
    return low <= truth <= high, high - low


def binomial_covers(num_correct: np.ndarray, num_samples: int, truth: float) -> bool:
    """Whether the normal interval that takes all samples for independent holds `truth`."""
    total = num_correct.size * num_samples
    mean = num_correct.sum() / total
    half = NormalDist().inv_cdf((1 + LEVEL) / 2) * np.sqrt(mean * (1 - mean) / total)
    return abs(mean - truth) <= half


def simulate(
    num_problems: int, num_samples: int, shape: tuple[float, float], trials: int, num_bootstrap: int
) -> dict[str, Any]:
    """Coverage and mean width over `trials` simulated evaluations."""
    generator = np.random.default_rng(0)
    truth = {1: true_pass_at_k(*shape, 1), K: true_pass_at_k(*shape, K)}
    table = {k: [pass_at_k(num_samples, c, k) for c in range(num_samples + 1)] for k in truth}
    hits, widths, binomial_hits = {1: 0, K: 0}, {1: 0.0, K: 0.0}, 0
    for trial in range(trials):
        num_correct = generator.binomial(num_samples, generator.beta(*shape, size=num_problems))
        for k in truth:
            hit, width = covers(
                [table[k][count] for count in num_correct], truth[k], num_bootstrap, trial
            )
            hits[k] += hit
            widths[k] += width
        binomial_hits += binomial_covers(num_correct, num_samples, truth[1])
    return {
        "pass_at_1": {"truth": truth[1], "coverage": hits[1] / trials, "width": widths[1] / trials},
        f"pass_at_{K}": {
            "truth": truth[K],
            "coverage": hits[K] / trials,
            "width": widths[K] / trials,
        },
        "binomial_over_all_samples_coverage": binomial_hits / trials,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Coverage of the intervals over problems.")
    parser.add_argument("--trials", type=int, default=4000)
    parser.add_argument("--bootstrap", type=int, default=2000)
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    start = time.perf_counter()
    result = {
        "level": LEVEL,
        "trials": arguments.trials,
        "num_bootstrap": arguments.bootstrap,
        "standard_error_of_coverage": round((LEVEL * (1 - LEVEL) / arguments.trials) ** 0.5, 5),
        "settings": {
            name: simulate(*setting, arguments.trials, arguments.bootstrap)
            for name, setting in SETTINGS.items()
        },
        "seconds": round(time.perf_counter() - start, 1),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
