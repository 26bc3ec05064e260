"""What time and energy cost: a price with its currency, unit, source and date, and exact sums."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any, Literal

from vibelite.errors import RecipeError
from vibelite.recipe.run_section import Cost

NANOSECONDS = 1_000_000_000
HOUR = 3600 * NANOSECONDS
MILLIJOULES_PER_KWH = 3_600_000_000
# One billionth of the currency's unit: fine enough that rounding never shows in a sum.
MONEY_QUANTUM = Decimal("1e-9")
USD = "USD"

Unit = Literal["instance_hour", "gpu_hour", "kwh"]


@dataclass(frozen=True, slots=True)
class Price:
    """What one unit costs, and who says so."""

    amount: Decimal
    unit: Unit = "instance_hour"
    currency: str = USD
    source: str = ""
    date: str | None = None
    """The day of the source, YYYY-MM-DD; None = unknown."""
    num_gpus: int = 0
    """GPUs of the machine; for gpu_hour the number of units."""
    usd_rate: Decimal | None = None
    """USD for one unit of the currency; None = unknown."""

    def cost(self, nanoseconds: int, millijoules: int | None) -> Decimal | None:
        """In `currency`, to MONEY_QUANTUM; None where energy is paid for and unknown."""
        if self.unit == "kwh":
            if millijoules is None:
                return None
            exact = self.amount * millijoules / MILLIJOULES_PER_KWH
        else:
            num_units = self.num_gpus if self.unit == "gpu_hour" else 1
            exact = self.amount * num_units * nanoseconds / HOUR
        return exact.quantize(MONEY_QUANTUM)

    def in_usd(self, amount: Decimal | None) -> Decimal | None:
        """`amount` of this price's currency in USD; None where either is unknown."""
        rate = Decimal(1) if self.currency == USD else self.usd_rate
        return None if amount is None or rate is None else (amount * rate).quantize(MONEY_QUANTUM)

    def as_json(self) -> dict[str, Any]:
        """Numbers of money as decimal strings."""
        return {
            key: f"{value:f}" if isinstance(value, Decimal) else value
            for key, value in asdict(self).items()
        }

    @staticmethod
    def from_json(values: dict[str, Any]) -> Price:
        rate = values["usd_rate"]
        money = {
            "amount": Decimal(values["amount"]),
            "usd_rate": None if rate is None else Decimal(rate),
        }
        return Price(**(values | money))

    def __str__(self) -> str:
        times = f" x {self.num_gpus}" if self.unit == "gpu_hour" else ""
        origin = ", ".join(filter(None, [self.source, self.date]))
        return f"{self.amount:f} {self.currency}/{self.unit}{times} ({origin or 'no source'})"


def price_in(cost: Cost, num_gpus: int) -> Price | None:
    """The price that a recipe's `cost` means on a machine with `num_gpus`; None = none is given.

    Raises RecipeError for a price per GPU on a machine without one.
    """
    if cost.usd_per_hour is not None:
        # Through str: the price as the recipe has it, not its binary neighbour.
        return Price(Decimal(str(cost.usd_per_hour)), source=cost.source, num_gpus=num_gpus)
    if cost.price is not None:
        given = cost.price
        if given.unit == "gpu_hour" and not num_gpus:
            raise RecipeError(
                "cost.price.unit: gpu_hour, but this machine has no GPU; give the price of the "
                "whole machine with unit: instance_hour"
            )
        return Price(
            given.amount, given.unit, given.currency, given.source, given.date.isoformat(),
            num_gpus, given.usd_rate,
        )  # fmt: skip
    if cost.electricity is not None:
        tariff = cost.electricity
        return Price(
            tariff.amount_per_kwh, "kwh", tariff.currency, tariff.source, tariff.date.isoformat(),
            num_gpus, tariff.usd_rate,
        )  # fmt: skip
    return None


def known_sum(amounts: Iterable[Decimal | None]) -> Decimal | None:
    """The sum; None of none, and where a part is unknown: then so is the sum."""
    total: Decimal | None = None
    for amount in amounts:
        if amount is None:
            return None
        total = amount if total is None else total + amount
    return total


def total_millijoules(
    gpu_millijoules: int | None,
    nanoseconds: int,
    *,
    num_gpus: int,
    watts_beside_gpus: float | None,
) -> int | None:
    """Energy of a stretch of time: the GPUs' as measured, and what the rest of the machine draws
    where that is known. None where nothing is known, or where GPUs were not measured.
    """
    if num_gpus and gpu_millijoules is None:
        return None
    if not num_gpus and watts_beside_gpus is None:
        return None
    beside = round((watts_beside_gpus or 0.0) * nanoseconds / 1_000_000)
    return (gpu_millijoules or 0) + beside
