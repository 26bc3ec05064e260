"""Time, tokens and money by stage and by span, from the lines of a ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from vibelite.report.charts import Point

NANOSECONDS = 1e9

# The palette's indices of the spans that every run has; others take the last but one.
SPAN_COLORS = {
    "rollout": 0,
    "train": 1,
    "verify": 2,
    "optimizer": 3,
    "checkpoint": 4,
    "load": 5,
    "idle": 7,
}
OTHER_SPAN_COLOR = 6


@dataclass(frozen=True, slots=True)
class Cost:
    """What some ledger lines add up to. `usd` is None when a line has no price.

    `redone_seconds`: of steps that were done again later, because a process died after them and
    before its next checkpoint.
    """

    name: str
    seconds: float
    seconds_by_span: dict[str, float]
    tokens: dict[str, int]
    usd: Decimal | None
    redone_seconds: float

    @property
    def spans(self) -> list[tuple[str, float, int]]:
        """(span, seconds, colour) in the order of SPAN_COLORS, others after them, idle last."""
        known = [span for span in SPAN_COLORS if span != "idle"]
        others = [span for span in self.seconds_by_span if span not in SPAN_COLORS]
        return [
            (span, self.seconds_by_span[span], SPAN_COLORS.get(span, OTHER_SPAN_COLOR))
            for span in [*known, *others, "idle"]
            if self.seconds_by_span.get(span)
        ]

    def usd_per_million(self, use: str) -> Decimal | None:
        """All that was spent, per million tokens of one use; None where unknown or without any."""
        count = self.tokens.get(use, 0)
        return None if self.usd is None or not count else self.usd * 1_000_000 / count


def stage_costs(ledger: Sequence[Mapping[str, Any]]) -> list[Cost]:
    """One entry per stage, in the order in which they first ran."""
    names = dict.fromkeys(line["stage"] for line in ledger)
    return [add_up(name, [line for line in ledger if line["stage"] == name]) for name in names]


def add_up(name: str, lines: Sequence[Mapping[str, Any]]) -> Cost:
    """The sum of `lines` under the name `name`."""
    spans: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    for line in lines:
        spans.update(line["nanoseconds"])
        tokens.update(line["tokens"])
    prices = [Decimal(line["usd"]) for line in lines if line["usd"] is not None]
    is_priced = bool(lines) and len(prices) == len(lines)
    return Cost(
        name=name,
        seconds=sum(spans.values()) / NANOSECONDS,
        seconds_by_span={span: value / NANOSECONDS for span, value in spans.items()},
        tokens=dict(tokens),
        usd=sum(prices, Decimal(0)) if is_priced else None,
        redone_seconds=redone_nanoseconds(lines) / NANOSECONDS,
    )


def redone_nanoseconds(lines: Sequence[Mapping[str, Any]]) -> int:
    """Time of all but the last line of every step."""
    last: dict[tuple[str, int], int] = {}
    total = 0
    for line in lines:
        if line["step"] is None:
            continue
        key = (line["stage"], line["step"])
        total += last.get(key, 0)
        last[key] = sum(line["nanoseconds"].values())
    return total


def cumulative_usd(ledger: Sequence[Mapping[str, Any]]) -> list[Point]:
    """(seconds since the first line began, USD so far) per line; [] when a line has no price.

    The seconds are those of the clock on the wall: an interruption is a flat stretch.
    """
    if any(line["usd"] is None for line in ledger):
        return []
    total = Decimal(0)
    points: list[Point] = []
    for line in ledger:
        ended = datetime.fromisoformat(line["utc"]).timestamp()
        if not points:
            started = ended - sum(line["nanoseconds"].values()) / NANOSECONDS
            points.append((0.0, 0.0))
        total += Decimal(line["usd"])
        points.append((ended - started, float(total)))
    return points
