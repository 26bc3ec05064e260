"""Time, tokens, energy and money by stage and by span, from a ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import accumulate

from vibelite.telemetry.ledger import UNRECORDED, Entry, known_sum, lost_entries
from vibelite.telemetry.unit_costs import unit_costs, zero_signal_share
from vibelite.units import MILLIJOULES_PER_KWH, NANOSECONDS

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
    """What some entries of a ledger add up to. `usd` and `kwh` are None where a part is unknown.

    Lost: steps that were done again later, because a process died after them and before its next
    checkpoint, and what a killed process had not written down.
    """

    name: str
    seconds: float
    seconds_by_span: dict[str, float]
    tokens: dict[str, int]
    usd: Decimal | None
    kwh: float | None
    lost_seconds: float
    lost_usd: Decimal | None
    prices: list[str]
    """Every price that was paid, in words."""
    units: dict[str, Decimal]
    """USD by unit; see `unit_costs`."""
    zero_signal_share: float | None

    @property
    def spans(self) -> list[tuple[str, float, int]]:
        """(span, seconds, colour) in the order of SPAN_COLORS, others after them, idle last."""
        return ordered_spans(self.seconds_by_span)


def ordered_spans(amounts: Mapping[str, float]) -> list[tuple[str, float, int]]:
    """(span, amount, colour) in the order of SPAN_COLORS, others after them, idle last."""
    known = [span for span in SPAN_COLORS if span != "idle"]
    others = [span for span in amounts if span not in SPAN_COLORS]
    return [
        (span, amounts[span], SPAN_COLORS.get(span, OTHER_SPAN_COLOR))
        for span in [*known, *others, "idle"]
        if amounts.get(span)
    ]


def stage_costs(ledger: Sequence[Entry]) -> list[Cost]:
    """One sum per stage, in the order in which they first ran."""
    lost = lost_so_far(ledger)
    stages: dict[str, tuple[list[Entry], list[Entry]]] = {entry.stage: ([], []) for entry in ledger}
    for index, entries in enumerate((ledger, lost)):
        for entry in entries:
            stages[entry.stage][index].append(entry)
    return [sum_entries(name, *both) for name, both in stages.items()]


def add_up(name: str, ledger: Sequence[Entry]) -> Cost:
    """The sum of a whole ledger under the name `name`."""
    return sum_entries(name, ledger, lost_so_far(ledger))


def lost_so_far(ledger: Sequence[Entry]) -> list[Entry]:
    """The entries that came to nothing. What the last process has not written down yet is none of
    them: it may be at work on it.
    """
    lost = lost_entries(ledger)
    is_under_way = bool(lost) and lost[-1] is ledger[-1] and lost[-1].what == UNRECORDED
    return lost[:-1] if is_under_way else lost


def sum_entries(name: str, entries: Sequence[Entry], lost: Sequence[Entry]) -> Cost:
    """The sum of `entries`, of which `lost` came to nothing."""
    spans: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for entry in entries:
        spans.update(entry.nanoseconds)
        tokens.update(entry.tokens)
        counts.update(entry.counts)
    usd = known_sum(entry.usd for entry in entries)
    energies = [entry.gpu_millijoules for entry in entries if entry.gpu_millijoules is not None]
    is_measured = bool(entries) and len(energies) == len(entries)
    return Cost(
        name=name,
        seconds=sum(spans.values()) / NANOSECONDS,
        seconds_by_span={span: value / NANOSECONDS for span, value in spans.items()},
        tokens=dict(tokens),
        usd=usd,
        kwh=sum(energies) / MILLIJOULES_PER_KWH if is_measured else None,
        lost_seconds=sum(entry.wall_nanoseconds for entry in lost) / NANOSECONDS,
        lost_usd=known_sum(entry.usd for entry in lost),
        prices=[*dict.fromkeys(str(entry.price) for entry in entries if entry.price is not None)],
        units=unit_costs(usd, tokens, counts),
        zero_signal_share=zero_signal_share(spans, counts),
    )


def cumulative_usd(ledger: Sequence[Entry]) -> list[tuple[float, float]]:
    """(seconds since the first entry began, USD so far) per entry; [] where a price is unknown.

    The seconds are those of the clock on the wall: an interruption is a flat stretch.
    """
    amounts = [entry.usd for entry in ledger if entry.usd is not None]
    if not ledger or len(amounts) < len(ledger):
        return []
    ends = [datetime.fromisoformat(entry.utc).timestamp() for entry in ledger]
    started = ends[0] - ledger[0].wall_nanoseconds / NANOSECONDS
    points = zip(ends, accumulate(amounts), strict=True)
    return [(0.0, 0.0), *((ended - started, float(total)) for ended, total in points)]
