"""What a stage will have cost at its end, with an interval, from the steps it has done."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MIN_STEPS = 10
"""Fewer say nothing about their spread: no projection."""
WINDOW = 50
"""Steps looked at: those before are of another policy, with responses of another length."""
NUM_BOOTSTRAP = 400
LEVEL = 0.8


@dataclass(frozen=True, slots=True)
class Projection:
    """A sum to come and the two ends of its 80% interval."""

    ahead: float
    low: float
    high: float


def project(costs: Sequence[float], num_remaining: int, *, seed: int) -> Projection | None:
    """The sum of the next `num_remaining` costs of a series; None after fewer than MIN_STEPS.

    Method (own): a straight line is fitted to the last WINDOW costs by least squares, as responses
    lengthen during reinforcement learning. It is followed for half as many steps as it was fitted
    to, and is level from there on: a slope that few noisy steps suggest says nothing about the far
    future. The interval is that of a bootstrap: the residuals, in blocks of about the cube root of
    their number because neighbouring steps resemble each other (Kuensch 1989, "The jackknife and
    the bootstrap for general stationary observations"), make new pasts, to which the line is fitted
    again, and futures around it. In simulations it holds the truth in 65 to 80% of the cases for
    independent costs, in 55 to 70% where half of a deviation carries over to the next step, and
    hardly ever where the trend goes on to the end: it knows nothing of what has not happened yet.
    """
    recent = np.asarray(costs[-WINDOW:], dtype=np.float64)
    num_recent = len(recent)
    if num_recent < MIN_STEPS:
        return None
    if not num_remaining:
        return Projection(0.0, 0.0, 0.0)
    times = np.arange(num_recent) - (num_recent - 1) / 2
    future = np.minimum(np.arange(1, num_remaining + 1), num_recent / 2) + times[-1]
    slope_weights = times / (times**2).sum()

    def ahead(past: np.ndarray) -> np.ndarray:
        """The sums [B] that lines fitted to the rows of `past` [B, W] lead to."""
        return num_remaining * past.mean(axis=-1) + (past @ slope_weights) * future.sum()

    line = recent.mean() + (recent @ slope_weights) * times
    # Two parameters were fitted: residuals are smaller than the noise by this much.
    residuals = (recent - line) * math.sqrt(num_recent / (num_recent - 2))
    generator = np.random.default_rng(seed)
    pasts = line + resample(residuals, num_recent, generator)
    noise = resample(residuals, min(num_remaining, WINDOW), generator).sum(axis=1)
    noise *= math.sqrt(num_remaining / min(num_remaining, WINDOW))
    sums = np.maximum(ahead(pasts) + noise, 0.0)
    low, high = np.quantile(sums, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    middle = max(float(ahead(recent)), 0.0)
    return Projection(middle, min(float(low), middle), max(float(high), middle))


def resample(values: np.ndarray, length: int, generator: np.random.Generator) -> np.ndarray:
    """NUM_BOOTSTRAP series [NUM_BOOTSTRAP, length] of blocks of `values`, which wrap around."""
    block = max(1, round(len(values) ** (1 / 3)))
    num_blocks = -(-length // block)
    starts = generator.integers(len(values), size=(NUM_BOOTSTRAP, num_blocks, 1))
    places = (starts + np.arange(block)) % len(values)
    return values[places.reshape(NUM_BOOTSTRAP, -1)[:, :length]]
