"""Finding the final answer and reading plain numbers."""

from fractions import Fraction

import pytest

from vibelite.rewards.answer_text import last_box, last_number, parse_rational


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
        ("\\boxed {7}", "7"),
        ("\\fbox{7}", "7"),
        ("\\boxed{1} \\boxed{\\boxed{7}}", "7"),
        ("boxed{7}", None),
        ("\\boxed{7", None),
    ],
)
def test_last_box_matches_braces(text, content):
    assert last_box(text) == content


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("025", Fraction(25)),
        ("-1.50", Fraction(-3, 2)),
        (".5", Fraction(1, 2)),
        ("+3", Fraction(3)),
        ("6/-4", Fraction(-3, 2)),
        ("-\\dfrac{2}{4}", Fraction(-1, 2)),
        ("\\frac12", Fraction(1, 2)),
        ("1/0", None),
        ("1e5", Fraction(100_000)),
        ("2.5 \\times 10^{-3}", Fraction(1, 400)),
        ("1\\frac{1}{2}", Fraction(3, 2)),
        ("-2 1/3", Fraction(-7, 3)),
        ("0.1\\overline{6}", Fraction(1, 6)),
        ("1e401", None),
        ("1e999999999", None),
        ("٢٥", None),
        ("2 5", None),
        ("", None),
        (".", None),
        ("9" * 5000, None),
    ],
)
def test_rationals_are_read_exactly_or_not_at_all(text, value):
    assert parse_rational(text) == value


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7-2=5.", "5"),
        ("7-2", "2"),
        ("7 - 2 is -5", "-5"),
        ("about 1,250 legs", "1250"),
        ("2,4,6", "6"),
        ("x=1/3", "1/3"),
        ("it is 2.50", "2.50"),
        ("none", None),
        ("\\boxed{12", None),
    ],
)
def test_last_number_is_the_last_one_written(text, number):
    assert last_number(text) == number
