"""Why a run stops before its end, with everything saved: its budget, or a signal. Stages ask at
the end of every step, and where a piece of work is safely on disk.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal

from vibelite.errors import BudgetReached, Interrupted, RecipeError, RunStopped
from vibelite.recipe.run_section import Budget
from vibelite.telemetry.ledger import Entry
from vibelite.telemetry.spending import Spending
from vibelite.units import HOUR, NANOSECONDS

# What writing summary and report takes, until this run has done it once.
ENDING_SECONDS = 1.0


class StopRules:
    """Knows the limits of a run, what a step and its checkpoint take, and who asked it to stop."""

    def __init__(self, budget: Budget, spending: Spending) -> None:
        """RecipeError where a limit in USD could not be kept, because what was spent is unknown."""
        if budget.usd is not None and spending.usd is None:
            raise RecipeError(
                "budget.usd: what this run has spent is unknown, because a part of its ledger has "
                "no price in USD; limit budget.hours instead, or begin a new run"
            )
        self.spending = spending
        self.budget = budget
        self._signal: signal.Signals | None = None
        # Seconds; steps and other work without the checkpoints that they had in them.
        self._steps: list[float] = []
        self._works: list[float] = []
        self._checkpoints: list[float] = []
        self._loads: list[float] = []
        self._ending = 0.0
        """Of the slowest summary and report."""
        self._num_seen = 0

    def new_stage(self, stage: str) -> None:
        """Steps of another stage say nothing about this one's; those of an earlier process do."""
        self._look()
        earlier = self.spending.entries[: self.spending.num_earlier]
        ours = [entry for entry in earlier if entry.stage == stage and entry.step is not None]
        self._steps = [without_checkpoint(entry) for entry in ours]

    def reason_to_stop(self) -> RunStopped | None:
        """Asked before another step begins: why it must not, if so."""
        self._look()
        return self._reason(percentile_95(self._steps) + self._reserve())

    def check(self) -> None:
        """Asked before other work, where all is on disk: raises the reason to stop, if any."""
        self._look()
        ahead = percentile_95(self._works) + (self._ending or ENDING_SECONDS)
        if self._steps:  # of the stage that begins, by an earlier process
            ahead = max(self._loads, default=0.0) + percentile_95(self._steps) + self._reserve()
        if reason := self._reason(ahead):
            raise reason

    def check_deadline(self) -> None:
        """Asked within a step: raises the reason to stop at once, if what is left would no longer
        pay for a checkpoint.
        """
        self._look()
        unwritten = self.spending.ledger.unwritten_nanoseconds / NANOSECONDS
        if reason := self._reason(unwritten + percentile_95(self._checkpoints)):
            raise reason

    def _look(self) -> None:
        entries, num_earlier = self.spending.entries, self.spending.num_earlier
        for index in range(self._num_seen, len(entries)):
            entry, is_earlier = entries[index], index < num_earlier
            for kept, span in ((self._checkpoints, "checkpoint"), (self._loads, "load")):
                if seconds := seconds_of(entry, span):
                    kept.append(seconds)
            if entry.what == "report":
                self._ending = max(self._ending, entry.wall_nanoseconds / NANOSECONDS)
            if is_earlier:
                continue
            if entry.step is not None:
                self._steps.append(without_checkpoint(entry))
            elif entry.what != "boot":  # which happens once
                self._works.append(without_checkpoint(entry))
        self._num_seen = len(entries)

    def _reserve(self) -> float:
        """Seconds that ending the run takes: a checkpoint, which until one was saved is taken to be
        as slow as the slowest loading, and the report.
        """
        saving = percentile_95(self._checkpoints) or max(self._loads, default=0.0)
        return saving + (self._ending or ENDING_SECONDS)

    def _reason(self, seconds_ahead: float) -> RunStopped | None:
        """A signal, or the limit that spending `seconds_ahead` more would reach."""
        if self._signal is not None:
            return Interrupted(f"stopped by {self._signal.name}")
        budget, spending = self.budget, self.spending
        spent = spending.nanoseconds / NANOSECONDS
        if budget.hours is not None and spent + seconds_ahead > budget.hours * HOUR:
            return BudgetReached(
                f"the budget of {budget.hours:g} hours ends here: {spent / HOUR:.3f} are spent"
            )
        if budget.usd is None:
            return None
        assert spending.ledger.price is not None and spending.usd is not None, "limited in USD"
        ahead = spending.ledger.price.usd(round(seconds_ahead * NANOSECONDS))
        if spending.usd + ahead > Decimal(str(budget.usd)):
            return BudgetReached(
                f"the budget of ${budget.usd:g} ends here: ${spending.usd:.4f} is spent, and the "
                f"next step with its checkpoint may cost ${ahead:.4f}"
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


def seconds_of(entry: Entry, span: str) -> float:
    return entry.nanoseconds.get(span, 0) / NANOSECONDS


def without_checkpoint(entry: Entry) -> float:
    return entry.wall_nanoseconds / NANOSECONDS - seconds_of(entry, "checkpoint")


def percentile_95(values: Sequence[float]) -> float:
    """The 95th percentile by nearest rank, which is the largest of fewer than 20; 0 of none."""
    if not values:
        return 0.0
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]
