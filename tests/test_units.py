"""Numbers as a reader sees them."""

from decimal import Decimal

import pytest

from vibelite.units import duration, gib_text, percent, short_number, usd_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0042, "0.0042 s"),
        (2.345, "2.3 s"),
        (12.34, "12 s"),
        (59.7, "1 min 00 s"),
        (245, "4 min 05 s"),
        (1530, "25 min"),
        (11_220, "3 h 07 min"),
        (100_000, "1 day 3 h"),
        (1_300_000, "15 days"),
    ],
)
def test_durations_have_the_two_units_that_matter(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (1234.5, "1,234.50"),
        (Decimal(1), "1.00"),
        (0.17, "0.17"),
        (Decimal("0.0123"), "0.012"),
        (0.0000123, "0.000012"),
        (0.0, "0.00"),
    ],
)
def test_dollars_are_cents_and_below_one_two_digits(amount, text):
    assert usd_text(amount) == text


def test_bytes_and_fractions():
    assert gib_text(3 << 29) == "1.50"
    assert (percent(0.1234), percent(None)) == ("12.3", "-")


def test_numbers_are_short():
    values = [0, 0.1234, 1234.5, 12345, 1.5e6, 2e9, 3e-6, 0.00015, -0.5]
    texts = ["0", "0.123", "1234", "12.3k", "1.5M", "2G", "3e-6", "1.5e-4", "-0.5"]
    assert [short_number(value) for value in values] == texts
