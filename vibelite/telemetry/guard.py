"""What ends a run before its end, with everything saved: its budget, or a signal.

Stages ask at the end of every step, and where a piece of work is safely on disk. A run that stopped
goes on with the same command; after a budget stop, once the limit is raised.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

from vibelite.errors import BudgetReached, Interrupted, RunStopped
from vibelite.recipe.run_section import Budget, Cost
from vibelite.telemetry.ledger import price_of, run_cost
from vibelite.telemetry.meter import NANOSECONDS, Lap

SECONDS_PER_HOUR = 3600


class RunGuard:
    """Knows what a run has spent, what a step and its checkpoint cost, and who asked it to stop."""

    def __init__(self, budget: Budget, cost: Cost, ledger_path: Path) -> None:
        self._budget = budget
        self._usd_per_hour = None if cost.usd_per_hour is None else Decimal(str(cost.usd_per_hour))
        self._seconds, self._usd = run_cost(ledger_path)
        self._since = time.monotonic()
        self._steps: list[float] = []
        self._works: list[float] = []
        self._checkpoints: list[float] = []
        self._signal: signal.Signals | None = None

    def record(self, lap: Lap, *, is_step: bool) -> None:
        """Takes what a step or another piece of work took, once it is in the ledger."""
        self._seconds += lap.wall_seconds
        usd = price_of(lap.wall_nanoseconds, self._usd_per_hour)
        self._usd = None if usd is None else (self._usd or Decimal(0)) + usd
        self._since = time.monotonic()
        saving = lap.seconds.get("checkpoint", 0.0)
        (self._steps if is_step else self._works).append(lap.wall_seconds - saving)
        if saving:
            self._checkpoints.append(saving)

    def new_stage(self) -> None:
        """Steps of another stage say nothing about the next one's."""
        self._steps = []

    def reason_to_stop(self) -> RunStopped | None:
        """Asked before another step begins: why it must not, if so."""
        if self._signal is not None:
            return Interrupted(f"stopped by {self._signal.name}")
        return self._over(percentile_95(self._steps) + percentile_95(self._checkpoints))

    def check(self) -> None:
        """Asked before loading, probing or testing goes on, where all that was done is on disk:
        raises the reason to stop, if there is one.
        """
        ahead = percentile_95(self._works)
        reason = self.reason_to_stop() if self._signal is not None else self._over(ahead)
        if reason is not None:
            raise reason

    def check_deadline(self) -> None:
        """Asked within a step, such as between completions: BudgetReached once what is left would
        no longer pay for a checkpoint. The step is lost; the last checkpoint is not.
        """
        running = time.monotonic() - self._since
        reason = self._over(running + percentile_95(self._checkpoints))
        if reason is not None:
            raise reason

    def _over(self, seconds_ahead: float) -> BudgetReached | None:
        """The limit that spending `seconds_ahead` more would reach."""
        budget = self._budget
        hours = (self._seconds + seconds_ahead) / SECONDS_PER_HOUR
        if budget.hours is not None and hours > budget.hours:
            return BudgetReached(
                f"the budget of {budget.hours:g} hours ends here: "
                f"{self._seconds / SECONDS_PER_HOUR:.3f} are spent"
            )
        if budget.usd is None or self._usd is None or self._usd_per_hour is None:
            return None
        ahead = price_of(round(seconds_ahead * NANOSECONDS), self._usd_per_hour)
        assert ahead is not None, "there is a price"
        if self._usd + ahead > Decimal(str(budget.usd)):
            return BudgetReached(
                f"the budget of ${budget.usd:g} ends here: ${self._usd:.4f} is spent, and the next "
                f"step with its checkpoint may cost ${ahead:.4f}"
            )
        return None

    @contextmanager
    def listen(self) -> Iterator[None]:
        """SIGTERM and SIGINT ask for a stop at the next safe place; a second one ends at once."""
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: object) -> None:
        if self._signal is not None:
            os._exit(Interrupted.exit_code)
        self._signal = signal.Signals(number)
        message = b"\nstopping at the next safe place; once more stops at once\n"
        os.write(2, message)  # print() is not safe inside a signal handler


def percentile_95(values: Sequence[float]) -> float:
    """The 95th percentile by nearest rank, which is the largest of fewer than 20; 0 of none."""
    if not values:
        return 0.0
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]
