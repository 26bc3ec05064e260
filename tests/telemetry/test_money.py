"""Prices: units, currencies, energy; exact, and unknown where a part is."""

from decimal import Decimal

import pytest

from vibelite.errors import RecipeError
from vibelite.recipe.run_section import Cost
from vibelite.telemetry.money import HOUR, Price, known_sum, price_in, total_millijoules

KWH = 3_600_000_000
SOURCE = {"source": "a price list", "date": "2026-11-20"}


def test_a_gpu_hour_is_paid_per_gpu_and_an_instance_hour_once():
    per_gpu = Price(Decimal("2.69"), "gpu_hour", num_gpus=8)
    assert per_gpu.cost(HOUR // 2, None) == Decimal("10.76")
    assert Price(Decimal("2.69"), num_gpus=8).cost(HOUR // 2, None) == Decimal("1.345")


def test_owned_machines_pay_for_energy_and_unknown_energy_costs_an_unknown_sum():
    tariff = Price(Decimal("0.40"), "kwh", "EUR")
    assert tariff.cost(HOUR, 5 * KWH) == Decimal("2.00")
    assert tariff.cost(HOUR, None) is None


def test_currencies_become_usd_only_by_a_rate():
    assert Price(Decimal(2)).in_usd(Decimal(3)) == Decimal(3)
    assert Price(Decimal(2), currency="EUR").in_usd(Decimal(3)) is None
    assert Price(Decimal(2), currency="EUR", usd_rate=Decimal("1.1")).in_usd(Decimal(3)) == Decimal(
        "3.3"
    )


def test_a_price_survives_json_digit_by_digit():
    price = Price(Decimal("2.690"), "gpu_hour", "EUR", "list", "2026-11-20", 2, Decimal("1.08"))
    values = price.as_json()
    assert (values["amount"], values["usd_rate"]) == ("2.690", "1.08")
    assert Price.from_json(values) == price
    assert str(price) == "2.690 EUR/gpu_hour x 2 (list, 2026-11-20)"
    assert str(Price(Decimal(1))) == "1 USD/instance_hour (no source)"


def test_recipes_give_a_price_in_three_ways_and_none():
    short = price_in(Cost(usd_per_hour=2.1, source="list"), num_gpus=0)
    assert short == Price(Decimal("2.1"), source="list")
    rented = Cost.model_validate({"price": {"amount": "2.69", "unit": "gpu_hour", **SOURCE}})
    assert price_in(rented, num_gpus=4) == Price(
        Decimal("2.69"), "gpu_hour", "USD", "a price list", "2026-11-20", 4
    )
    tariff = {"amount_per_kwh": 0.4, "currency": "EUR", "watts_beside_gpus": 90.0, **SOURCE}
    owned = price_in(Cost.model_validate({"electricity": tariff}), num_gpus=0)
    assert owned == Price(Decimal("0.4"), "kwh", "EUR", "a price list", "2026-11-20")
    assert price_in(Cost(), num_gpus=0) is None


def test_a_price_per_gpu_needs_one():
    cost = Cost.model_validate({"price": {"amount": 1, "unit": "gpu_hour", **SOURCE}})
    with pytest.raises(RecipeError, match="cost.price.unit: gpu_hour, but this machine has no GPU"):
        price_in(cost, num_gpus=0)


@pytest.mark.parametrize(
    ("gpu", "num_gpus", "watts", "expected"),
    [
        (None, 0, None, None),  # nothing measures anything
        (None, 0, 100.0, 100 * 3600 * 1000),
        (7, 1, None, 7),  # the GPUs alone
        (7, 1, 100.0, 7 + 100 * 3600 * 1000),
        (None, 1, 100.0, None),  # a GPU draws most of it, and how much is unknown
    ],
)
def test_energy_is_unknown_where_its_largest_part_is(gpu, num_gpus, watts, expected):
    energy = total_millijoules(gpu, HOUR, num_gpus=num_gpus, watts_beside_gpus=watts)
    assert energy == expected


def test_sums_with_an_unknown_part_are_unknown():
    assert known_sum([Decimal(1), Decimal(2)]) == 3
    assert known_sum([Decimal(1), None]) is None
    assert known_sum([]) is None
