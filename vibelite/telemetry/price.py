"""What an hour of the machine costs, and exact sums of USD."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from vibelite.errors import RecipeError
from vibelite.recipe.run_section import Cost
from vibelite.units import HOUR, NANOSECONDS

# One billionth of a dollar: fine enough that rounding never shows in a sum.
USD_QUANTUM = Decimal("1e-9")


@dataclass(frozen=True, slots=True)
class Price:
    """USD for one hour of the whole machine, and who says so."""

    usd_per_hour: Decimal
    source: str = ""

    def usd(self, nanoseconds: int) -> Decimal:
        """What so much time costs, to USD_QUANTUM."""
        return (self.usd_per_hour * nanoseconds / (HOUR * NANOSECONDS)).quantize(USD_QUANTUM)

    def as_json(self) -> dict[str, str]:
        return {"usd_per_hour": f"{self.usd_per_hour:f}", "source": self.source}

    @staticmethod
    def from_json(values: Mapping[str, Any] | None) -> Price | None:
        """None where none was given; a price of version 1 of the ledger is unknown too."""
        if values is None or "usd_per_hour" not in values:
            return None
        return Price(Decimal(values["usd_per_hour"]), values["source"])

    def __str__(self) -> str:
        return f"{self.usd_per_hour:f} USD per hour ({self.source or 'no source'})"


def price_of(cost: Cost, num_gpus: int) -> Price | None:
    """The price that a recipe's `cost` means on a machine with `num_gpus`; None = none is given.

    Raises RecipeError for a price per GPU on a machine without one.
    """
    # Through str: the price as the recipe has it, not its binary neighbour.
    if cost.usd_per_hour is not None:
        return Price(Decimal(str(cost.usd_per_hour)), cost.source)
    if cost.usd_per_gpu_hour is None:
        return None
    if not num_gpus:
        raise RecipeError(
            "cost.usd_per_gpu_hour: this machine has no GPU; give the price of the whole machine "
            "as cost.usd_per_hour"
        )
    each = Decimal(str(cost.usd_per_gpu_hour))
    source = f"{num_gpus} GPUs at {each:f}: {cost.source or 'no source'}"
    return Price(each * num_gpus, source)


def known_sum(amounts: Iterable[Decimal | None]) -> Decimal | None:
    """The sum; None of none, and where a part is unknown: then so is the sum."""
    parts = list(amounts)
    known = [amount for amount in parts if amount is not None]
    return sum(known, Decimal(0)) if parts and len(known) == len(parts) else None
