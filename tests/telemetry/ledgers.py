"""What tests of the ledger need: a clock that stands still, laps, and entries without files."""

from decimal import Decimal

from vibelite.telemetry.ledger import Entry, Price
from vibelite.telemetry.meter import Lap

SECOND = 10**9


class FakeClock:
    """Nanoseconds that pass only when told to."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        return self.now


def make_lap(seconds: float = 1.0, span: str = "train", **tokens: int) -> Lap:
    return Lap({"idle": 0, span: round(seconds * SECOND)}, tokens, {})


def make_entry(
    stage: str = "mgpo",
    step: int | None = None,
    *,
    price: Price | None = Price(Decimal(3600)),  # noqa: B008 - frozen; a second costs a dollar
    segment: str = "a",
    ended: str = "2026-01-01T00:00:10+00:00",
    **seconds: float,
) -> Entry:
    return Entry(
        segment=segment,
        utc=ended,
        stage=stage,
        step=step,
        what="step",
        nanoseconds={span: round(value * SECOND) for span, value in seconds.items()},
        tokens={"generated": 1000, "trained": 0},
        counts={},
        gpu_millijoules=None,
        price=price,
        details={},
    )
