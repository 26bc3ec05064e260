"""Prices are exact, and a sum is unknown where a part of it is."""

from decimal import Decimal

import pytest

from vibelite.errors import RecipeError
from vibelite.recipe.run_section import Cost
from vibelite.telemetry.ledger import Price, known_sum, price_of
from vibelite.units import HOUR, NANOSECONDS

HALF_AN_HOUR = HOUR * NANOSECONDS // 2


def test_time_costs_its_part_of_an_hour_to_a_billionth_of_a_dollar():
    assert Price(Decimal("2.69")).usd(HALF_AN_HOUR) == Decimal("1.345")
    assert Price(Decimal(1)).usd(NANOSECONDS) == Decimal("0.000277778")


def test_a_price_survives_json_digit_by_digit():
    price = Price(Decimal("2.690"), "list, 2026-11-20")
    assert price.as_json() == {"usd_per_hour": "2.690", "source": "list, 2026-11-20"}
    assert Price.from_json(price.as_json()) == price
    assert str(price) == "2.690 USD per hour (list, 2026-11-20)"
    assert str(Price(Decimal(1))) == "1 USD per hour (no source)"


def test_a_price_that_was_written_otherwise_is_unknown():
    assert Price.from_json(None) is None
    old = {"amount": "2", "unit": "gpu_hour", "currency": "EUR", "source": "list"}
    assert Price.from_json(old) is None


def test_a_recipe_prices_the_machine_or_each_of_its_gpus_or_nothing():
    assert price_of(Cost(usd_per_hour=2.1, source="list"), 8) == Price(Decimal("2.1"), "list")
    each = price_of(Cost(usd_per_gpu_hour=2.69, source="list"), 8)
    assert each == Price(Decimal("21.52"), "8 GPUs at 2.69: list")
    assert price_of(Cost(), 8) is None


def test_a_price_per_gpu_needs_one():
    with pytest.raises(RecipeError, match="cost.usd_per_gpu_hour: this machine has no GPU"):
        price_of(Cost(usd_per_gpu_hour=1.0), 0)


def test_sums_with_an_unknown_part_are_unknown():
    assert known_sum([Decimal(1), Decimal(2)]) == 3
    assert known_sum([Decimal(1), None]) is None
    assert known_sum([]) is None
