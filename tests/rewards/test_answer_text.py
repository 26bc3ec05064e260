"""Finding the final answer, reading plain numbers, and answers that must be exact."""

from fractions import Fraction

import pytest

from vibelite.rewards.answer_text import (
    check_exact,
    check_procedural,
    last_box,
    last_number,
    parse_rational,
)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
        ("\\boxed {7}", "7"),
        ("\\fbox{7}", "7"),
        ("\\boxed{1} \\boxed{\\boxed{7}}", "7"),
        ("boxed{7}", None),
        ("$\\boxed 7$", "7"),
        ("is \\boxed 7.", "7"),
        ("\\(\\boxed -1.25\\)", "-1.25"),
        ("$\\boxed 7 + 1$", None),
        ("\\boxed{1} and $\\boxed 2$", "2"),
        ("$\\boxed 2$ \\boxed{3}", "3"),
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


def test_a_number_in_plain_words_counts_where_there_is_no_box():
    assert check_procedural("To add 7 and 5: 7 + 5 = 12.", "12").correct
    assert not check_procedural("12 or 13", "12").correct
    assert not check_procedural("It is 12, \\boxed{13}", "12").correct
    assert not check_procedural("It is 12, \\boxed{", "12").correct


def test_words_need_a_box():
    assert check_procedural("\\boxed{red  fox}", "red fox").correct
    assert check_procedural("red fox", "red fox").detail == "no boxed answer"


@pytest.mark.parametrize("boxed", ["121", "1.2", "1 2", "12 or 13", "6+6", "len('x'*12)", "012x"])
def test_text_that_merely_contains_or_computes_the_answer_is_wrong(boxed):
    assert check_procedural(f"\\boxed{{{boxed}}}", "12").reward == 0.0


def test_exact_answers_allow_space_and_a_text_wrapper_only():
    for boxed in ["A", " A ", "\\text{A}", "\\mathrm{A}"]:
        assert check_exact(f"\\boxed{{{boxed}}}", "A").correct
    for boxed in ["a", "A.", "(A)", "AB", "B"]:
        assert not check_exact(f"\\boxed{{{boxed}}}", "A").correct
