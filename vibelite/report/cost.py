"""Time, tokens, energy and money by stage and by span, from a ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from vibelite.telemetry.ledger import UNRECORDED, Entry, known_sum, lost_entries
from vibelite.telemetry.spending import unit_costs, zero_signal_share
from vibelite.units import MILLIJOULES_PER_KWH, NANOSECONDS

# In the order of the page's palette; other spans take its next colour, idle the last.
SPANS = ("rollout", "train", "verify", "optimizer", "checkpoint", "load")
IDLE_COLOR = 7


@dataclass(frozen=True, slots=True)
class Cost:
    """What some entries of a ledger add up to; `usd` and `kwh` are None where a part is unknown.
    Lost: what an interrupted process had done since its last checkpoint.
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
        """(span, seconds, colour) in the order of SPANS, others after them, idle last."""
        seconds = self.seconds_by_span
        others = [span for span in seconds if span not in (*SPANS, "idle")]
        colors = {span: color for color, span in enumerate(SPANS)} | {"idle": IDLE_COLOR}
        return [
            (span, seconds[span], colors.get(span, len(SPANS)))
            for span in [*SPANS, *others, "idle"]
            if seconds.get(span)
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
