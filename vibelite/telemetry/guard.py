"""What ends a run before its end, with everything saved: its budget, or a signal.

Stages ask at the end of every step, and where a piece of work is safely on disk. A run that stopped
goes on with the same command; after a budget stop, once the limit is raised.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from vibelite.errors import BudgetReached, Interrupted, RecipeError, RunStopped, VibeLiteError
from vibelite.recipe.run_section import Budget, Cost
from vibelite.telemetry.entries import Entry, read_ledger
from vibelite.telemetry.ledger import Ledger
from vibelite.telemetry.meter import Lap, Meter
from vibelite.telemetry.money import (
    MILLIJOULES_PER_KWH,
    NANOSECONDS,
    known_sum,
    price_in,
    total_millijoules,
)

SECONDS_PER_HOUR = 3600
# What writing summary and report takes, until this run has done it once.
ENDING_NANOSECONDS = NANOSECONDS


class RunGuard:
    """Knows what a run has spent, what a step and its checkpoint cost, and who asked it to stop.

    Everything that is spent goes through it into the ledger.
    """

    def __init__(self, budget: Budget, cost: Cost, ledger_path: Path, *, gpus: int = 0) -> None:
        """`gpus`: how many the machine has.

        Raises RecipeError where a limit could not be kept, because what it limits is unknown.
        """
        electricity = cost.electricity
        watts = None if electricity is None else electricity.watts_beside_gpus
        price = price_in(cost, gpus)
        self.ledger = Ledger(ledger_path, price, num_gpus=gpus, watts_beside_gpus=watts)
        self._budget = budget
        entries = read_ledger(ledger_path)
        self._nanoseconds = sum(entry.wall_nanoseconds for entry in entries)
        self._usd = known_sum(entry.usd for entry in entries) if entries else Decimal(0)
        self._millijoules = sum_or_unknown(entry.millijoules for entry in entries)
        self._since = time.monotonic()
        self._earlier = entries
        self._steps: list[float] = []
        self._works: list[float] = []
        self._checkpoints = [s for entry in entries if (s := seconds_of(entry, "checkpoint"))]
        self._loads = [s for entry in entries if (s := seconds_of(entry, "load"))]
        endings = [entry.wall_nanoseconds for entry in entries if entry.what == "report"]
        self._ending_seconds = max(endings, default=ENDING_NANOSECONDS) / NANOSECONDS
        self._signal: signal.Signals | None = None
        self._require_known()

    @property
    def usd_spent(self) -> Decimal | None:
        """By this run, restarts included; None = unknown."""
        return self._usd

    def record(
        self,
        lap: Lap,
        *,
        stage: str,
        step: int | None = None,
        what: str = "step",
        details: Mapping[str, Any] | None = None,
    ) -> Decimal | None:
        """Writes what a step (or, without `step`, another piece of work) took into the ledger; what
        it cost in USD, None = unknown.
        """
        ledger = self.ledger
        ledger.append(lap, stage=stage, step=step, what=what, details=dict(details or {}))
        energy = total_millijoules(
            lap.gpu_millijoules, lap.wall_nanoseconds,
            num_gpus=ledger.num_gpus, watts_beside_gpus=ledger.watts_beside_gpus,
        )  # fmt: skip
        price = ledger.price
        usd = price and price.in_usd(price.cost(lap.wall_nanoseconds, energy))
        self._nanoseconds += lap.wall_nanoseconds
        self._usd = known_sum([self._usd, usd])
        self._millijoules = sum_or_unknown([self._millijoules, energy])
        self._since = time.monotonic()
        saving, loading = (lap.seconds.get(span, 0.0) for span in ("checkpoint", "load"))
        if step is not None:
            self._steps.append(lap.wall_seconds - saving)
        elif what != "boot":  # which happens once
            self._works.append(lap.wall_seconds - saving)
        if saving:
            self._checkpoints.append(saving)
        if loading:
            self._loads.append(loading)
        self._require_known()
        return usd

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
        if self.ledger.is_open:
            self.ledger.append(meter.lap(), stage="report", step=None, what="report", details={})
            self.ledger.close(reason, exit_code)

    def new_stage(self, stage: str) -> None:
        """Steps of another stage say nothing about this one's; those of an earlier process do."""
        self._steps = [
            entry.wall_nanoseconds / NANOSECONDS - seconds_of(entry, "checkpoint")
            for entry in self._earlier
            if entry.stage == stage and entry.step is not None
        ]

    def reason_to_stop(self) -> RunStopped | None:
        """Asked before another step begins: why it must not, if so."""
        if self._signal is not None:
            return Interrupted(f"stopped by {self._signal.name}")
        return self._over(percentile_95(self._steps) + self._reserve())

    def check(self) -> None:
        """Asked before loading, probing or testing goes on, where all that was done is on disk:
        raises the reason to stop, if there is one.
        """
        ahead = percentile_95(self._works) + self._ending_seconds
        if self._steps:  # of the stage that begins, by an earlier process
            ahead = max(self._loads, default=0.0) + percentile_95(self._steps) + self._reserve()
        reason = self.reason_to_stop() if self._signal is not None else self._over(ahead)
        if reason is not None:
            raise reason

    def check_deadline(self) -> None:
        """Asked within a step, such as between completions: Interrupted after a signal, and
        BudgetReached once what is left would no longer pay for a checkpoint. The step is lost; what
        was trained before it is not.
        """
        ahead = time.monotonic() - self._since + percentile_95(self._checkpoints)
        reason = self.reason_to_stop() if self._signal is not None else self._over(ahead)
        if reason is not None:
            raise reason

    def _reserve(self) -> float:
        """Seconds that ending the run takes: a checkpoint and the report. Until one was saved, a
        checkpoint is taken to be as slow as the slowest loading.
        """
        saving = percentile_95(self._checkpoints) or max(self._loads, default=0.0)
        return saving + self._ending_seconds

    def _over(self, seconds_ahead: float) -> BudgetReached | None:
        """The limit that spending `seconds_ahead` more would reach."""
        budget, spent = self._budget, self._nanoseconds / NANOSECONDS
        if budget.hours is not None and spent + seconds_ahead > budget.hours * SECONDS_PER_HOUR:
            return BudgetReached(
                f"the budget of {budget.hours:g} hours ends here: "
                f"{spent / SECONDS_PER_HOUR:.3f} are spent"
            )
        if budget.kwh is not None and self._millijoules is not None and spent:
            kwh = self._millijoules / MILLIJOULES_PER_KWH
            if kwh * (1 + seconds_ahead / spent) > budget.kwh:
                return BudgetReached(
                    f"the budget of {budget.kwh:g} kWh ends here: {kwh:.4f} are spent"
                )
        if budget.usd is None or self._usd is None:
            return None
        ahead = self._usd_ahead(seconds_ahead)
        if self._usd + ahead > Decimal(str(budget.usd)):
            return BudgetReached(
                f"the budget of ${budget.usd:g} ends here: ${self._usd:.4f} is spent, and the next "
                f"step with its checkpoint may cost ${ahead:.4f}"
            )
        return None

    def _usd_ahead(self, seconds: float) -> Decimal:
        """What so much time will cost: at the price, or at the mean power so far."""
        price, nanoseconds = self.ledger.price, round(seconds * NANOSECONDS)
        assert price is not None, "a limit in USD needs a price"
        energy = None
        if price.unit == "kwh":
            energy = (self._millijoules or 0) * nanoseconds // max(self._nanoseconds, 1)
        usd = price.in_usd(price.cost(nanoseconds, energy))
        assert usd is not None, "a limit in USD needs a price in USD"
        return usd

    def _require_known(self) -> None:
        """RecipeError where a limit is set and what it limits is not known."""
        price = self.ledger.price
        has_usd = price is not None and (price.currency == "USD" or price.usd_rate is not None)
        if self._budget.usd is not None and (self._usd is None or not has_usd):
            raise RecipeError(
                "budget.usd: what this run has spent in USD is unknown, because a part of its "
                "ledger has no price in USD, or its energy was not measured; limit budget.hours "
                "instead, or begin a new run"
            )
        if self._budget.kwh is not None and self._nanoseconds and self._millijoules is None:
            raise RecipeError(
                "budget.kwh: the energy of this machine is unknown: it needs an NVIDIA GPU with "
                "nvidia-ml-py, or cost.electricity; limit budget.hours instead"
            )

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
    """Time of one span of an entry."""
    return entry.nanoseconds.get(span, 0) / NANOSECONDS


def percentile_95(values: Sequence[float]) -> float:
    """The 95th percentile by nearest rank, which is the largest of fewer than 20; 0 of none."""
    if not values:
        return 0.0
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


def sum_or_unknown(values: Iterable[int | None]) -> int | None:
    """The sum, 0 of none; None where a part is unknown."""
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total
