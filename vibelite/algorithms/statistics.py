"""Means over problems with intervals by the bootstrap: problems are resampled, never the samples
within a problem, because the question is how another set of problems would have come out.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

NUM_BOOTSTRAP = 2000
"""Resamples of an interval, where nothing asks for another number."""
# Resampled indices held at once; bounds memory at 8 MB whatever the number of problems.
CHUNK_SIZE = 1_000_000


def mean_with_interval(
    values: Sequence[float],
    *,
    num_bootstrap: int,
    seed: int,
    level: float = 0.95,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> tuple[float, float, float]:
    """Mean of `values` [P] over problems, and the two ends of its `level` interval.

    Bias-corrected and accelerated bootstrap (Efron 1987, "Better Bootstrap Confidence Intervals").
    Where all values equal c, every resample does too, and the bootstrap's interval would have no
    width. Then (own): with probability `level`, at most a share u = 1 - ((1 - level) / 2)^(1/P) of
    all problems differs from c (Clopper and Pearson 1934, for 0 of P), and those may have any value
    within `bounds`; so the ends are c - u (c - bounds[0]) and c + u (bounds[1] - c). For values of
    0 and 1 this is exactly the Clopper-Pearson interval.

    Raises ValueError for an empty sequence and for values outside `bounds`.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0 or not np.all((array >= bounds[0]) & (array <= bounds[1])):
        raise ValueError(f"a mean needs values, all within {bounds}; got {values}")
    mean = float(array.mean())
    if np.all(array == array[0]):
        value = float(array[0])
        unseen = 1 - ((1 - level) / 2) ** (1 / len(array))
        return value, value - unseen * (value - bounds[0]), value + unseen * (bounds[1] - value)
    resampled = bootstrap_means(array, num_bootstrap, seed=seed)
    low, high = np.quantile(resampled, bca_quantiles(array, resampled, level=level))
    return mean, float(low), float(high)


def paired_difference(
    a: Sequence[float], b: Sequence[float], *, num_bootstrap: int, seed: int
) -> tuple[float, float, float]:
    """Mean of a - b over the same problems in the same order [P], with its interval.

    Both hold values in 0..1. Resampling whole pairs removes the difficulty of the problems from the
    comparison; where all pairs differ by the same amount, see `mean_with_interval`.
    """
    assert len(a) == len(b), f"pairs need equal lengths, got {len(a)} and {len(b)}"
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    return mean_with_interval(
        differences.tolist(), num_bootstrap=num_bootstrap, seed=seed, bounds=(-1.0, 1.0)
    )


def sampling_error(num_correct: Sequence[int], num_samples: int) -> float | None:
    """Standard error of Pass@1 for other samples of the same problems; None for one sample each.

    `num_correct` [P] of `num_samples` were right. With p_i the share of problem i:
    sqrt(sum_i p_i (1 - p_i) / (n - 1)) / P, the binomial variance estimated without bias.
    """
    if num_samples < 2:
        return None
    shares = np.asarray(num_correct, dtype=np.float64) / num_samples
    return float(np.sqrt((shares * (1 - shares)).sum() / (num_samples - 1)) / len(shares))


def bootstrap_means(array: np.ndarray, num_bootstrap: int, *, seed: int) -> np.ndarray:
    """Means [num_bootstrap] of resamples, with replacement, of `array` [P]."""
    generator = np.random.default_rng(seed)
    chunk = max(1, CHUNK_SIZE // len(array))
    means = []
    for start in range(0, num_bootstrap, chunk):
        size = (min(chunk, num_bootstrap - start), len(array))
        means.append(array[generator.integers(len(array), size=size)].mean(axis=1))
    return np.concatenate(means)


def bca_quantiles(array: np.ndarray, resampled: np.ndarray, *, level: float) -> list[float]:
    """The two quantiles of the bootstrap distribution that BCa uses (Efron 1987, eq. 3.9).

    `array` [P] is not constant. The acceleration of a mean is its skewness over 6 sqrt(P).
    """
    normal = NormalDist()
    mean = array.mean()
    below = np.mean(resampled < mean) + np.mean(resampled == mean) / 2
    # Half a resample away from 0 and 1, where the normal quantile is infinite.
    margin = 1 / (2 * len(resampled))
    bias = normal.inv_cdf(float(np.clip(below, margin, 1 - margin)))
    deviations = array - mean
    acceleration = (deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5)
    quantiles = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        shifted = bias + normal.inv_cdf(tail)
        quantiles.append(normal.cdf(bias + shifted / (1 - acceleration * shifted)))
    return quantiles
