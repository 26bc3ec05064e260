"""The ledger: one line for every step and every piece of other work, appended and never rewritten.

Time is integer nanoseconds, money a decimal string; null is unknown, never 0. A step that is done
again after an interruption has two lines, and both were paid for.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from vibelite.run_dir import append_jsonl, read_jsonl
from vibelite.telemetry.meter import NANOSECONDS, Lap

CURRENCY = "USD"
# One billionth of a dollar: fine enough that rounding a step's price never shows in a sum.
MONEY_QUANTUM = Decimal("1e-9")


@cache
def process_start_id() -> str:
    """Names this process in every ledger line that it writes."""
    return uuid.uuid4().hex[:12]


def price_of(nanoseconds: int, usd_per_hour: Decimal | None) -> Decimal | None:
    """USD for the machine's time, to MONEY_QUANTUM; None without a price."""
    if usd_per_hour is None:
        return None
    return (usd_per_hour * nanoseconds / (3600 * NANOSECONDS)).quantize(MONEY_QUANTUM)


class Ledger:
    """Appends to one run's ledger."""

    def __init__(self, path: Path, usd_per_hour: float | None) -> None:
        self.path = path
        # Through str: the price as the recipe has it, not its binary neighbour.
        self.usd_per_hour = None if usd_per_hour is None else Decimal(str(usd_per_hour))
        drop_torn_line(path)

    def append(
        self, lap: Lap, *, stage: str, step: int | None, what: str, details: dict[str, Any]
    ) -> Decimal | None:
        """Writes one line for `lap`; its price."""
        usd = price_of(lap.wall_nanoseconds, self.usd_per_hour)
        line = {
            "utc": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "process": process_start_id(),
            "stage": stage,
            "step": step,
            "what": what,
            "nanoseconds": lap.nanoseconds,
            "tokens": lap.tokens,
            "usd": None if usd is None else f"{usd:f}",
            "usd_per_hour": None if self.usd_per_hour is None else f"{self.usd_per_hour:f}",
            "currency": CURRENCY,
            "details": details,
        }
        append_jsonl(self.path, [line])
        return usd


def drop_torn_line(path: Path) -> None:
    """Removes what follows the last line end: a process died while writing it, and the next line
    would be glued to it.
    """
    if not path.exists():
        return
    content = path.read_bytes()
    complete = content.rfind(b"\n") + 1
    if complete < len(content):
        with open(path, "r+b") as file:
            file.truncate(complete)


def read_ledger(path: Path) -> Iterator[dict[str, Any]]:
    """Lines in the order written; a torn last line is left out."""
    return read_jsonl(path)


def run_cost(path: Path, stage: str | None = None) -> tuple[float, Decimal | None]:
    """Seconds and USD of all lines, or of one stage's, steps that were redone included.

    USD is None when there is no line or a line without a price: a sum with an unknown part is
    unknown.
    """
    lines = [line for line in read_ledger(path) if stage is None or line["stage"] == stage]
    nanoseconds = sum(sum(line["nanoseconds"].values()) for line in lines)
    prices = [Decimal(line["usd"]) for line in lines if line["usd"] is not None]
    is_priced = bool(lines) and len(prices) == len(lines)
    return nanoseconds / NANOSECONDS, sum(prices, Decimal(0)) if is_priced else None


def stage_cost(path: Path, stage: str) -> tuple[float, float | None]:
    """Seconds and USD of one stage; see `run_cost`."""
    seconds, usd = run_cost(path, stage)
    return seconds, None if usd is None else float(usd)
