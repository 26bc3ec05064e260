"""What a run has spent: every lap goes through here into the ledger. And what is still to come."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from statistics import NormalDist, fmean, stdev
from typing import Any

from vibelite.errors import VibeLiteError
from vibelite.recipe.run_section import Cost
from vibelite.telemetry.ledger import Ledger, known_sum, price_of, read_ledger
from vibelite.telemetry.meter import Lap, Meter

MIN_STEPS = 10
"""Fewer say nothing about their spread: no projection."""
WINDOW = 50
"""Steps looked at: those before are of another policy, with responses of another length."""
LEVEL = 0.8


class Spending:
    """The ledger of a run, its sums, and every entry of it, restarts included."""

    def __init__(self, cost: Cost, ledger_path: Path, *, num_gpus: int = 0) -> None:
        """`num_gpus` of the machine. RecipeError for a price per GPU where there is none."""
        self.ledger = Ledger(ledger_path, price_of(cost, num_gpus), num_gpus=num_gpus)
        self.entries = read_ledger(ledger_path)
        self.num_earlier = len(self.entries)
        """Entries of earlier processes, which come first."""
        self.nanoseconds = sum(entry.wall_nanoseconds for entry in self.entries)
        start = None if self.ledger.price is None else Decimal(0)
        self.usd = known_sum([start, *(entry.usd for entry in self.entries)])
        """What all entries cost; None = unknown, or the price of those to come is."""

    def record(
        self,
        lap: Lap,
        *,
        stage: str,
        step: int | None = None,
        what: str = "step",
        **details: Any,
    ) -> Decimal | None:
        """Writes what a step (or, without `step`, another piece of work) took into the ledger; what
        it cost in USD, None = unknown.
        """
        entry = self.ledger.append(lap, stage=stage, step=step, what=what, **details)
        self.entries.append(entry)
        self.nanoseconds += entry.wall_nanoseconds
        self.usd = known_sum([self.usd, entry.usd])
        return entry.usd

    @contextmanager
    def paying(self, meter: Meter) -> Iterator[None]:
        """Keeps the ledger while a run goes on, and writes down what is left where it ends, and
        why. Of a process that is killed its last beat is known, from here on.
        """
        self.ledger.begin(meter.unrecorded_nanoseconds)
        try:
            with self.ledger.beating():
                yield
        except Exception as error:
            code = error.exit_code if isinstance(error, VibeLiteError) else 1
            self._close(meter, type(error).__name__, code)
            raise
        self._close(meter, "done", 0)

    def _close(self, meter: Meter, reason: str, exit_code: int) -> None:
        self.record(meter.lap(), stage="report", what="report")
        self.ledger.close(reason, exit_code)


def project(costs: Sequence[float], num_remaining: int) -> tuple[float, float, float] | None:
    """The sum of the next `num_remaining` costs of a series at the mean of its last WINDOW, and the
    two ends of an interval; None after fewer than MIN_STEPS.

    The interval holds the sum in 80% of cases if the steps to come are as the recent ones were,
    each independent of the others: mean and standard deviation s of n recent costs give
    m mean +- 1.28 s sqrt(m + m^2 / n) for m steps (own). It knows of no trend.

    >>> project([1.0, 3.0] * 5, 0)
    (0.0, 0.0, 0.0)
    """
    recent = costs[-WINDOW:]
    if len(recent) < MIN_STEPS:
        return None
    ahead = num_remaining * fmean(recent)
    deviation = stdev(recent) * math.sqrt(num_remaining + num_remaining**2 / len(recent))
    reach = NormalDist().inv_cdf((1 + LEVEL) / 2) * deviation
    return ahead, max(ahead - reach, 0.0), ahead + reach
