"""Golds that answers can be compared with, and others."""

import pytest

from vibelite.errors import DataError
from vibelite.rewards.answer_text import final_gold
from vibelite.rewards.math_answer import check_gold


@pytest.mark.parametrize("gold", ["", "  ", "$$", "\\text{}"])
def test_a_gold_without_content_is_a_data_error(gold):
    with pytest.raises(DataError, match="cannot be read"):
        check_gold(gold)


@pytest.mark.parametrize(
    "gold", ["nan", "NaN", "None", "null", "N/A", "proof", "Proof.", "\\boxed{}", "so $\\boxed{x$"]
)
def test_a_gold_that_nothing_can_equal_is_a_data_error(gold):
    with pytest.raises(DataError, match="is none that a completion could equal"):
        check_gold(gold)


@pytest.mark.parametrize(
    ("solution", "gold"),
    [
        ("We get $3x=12$, so $x=\\boxed{4}$, as was asked.", "4"),
        ("First \\boxed{1}. Then $y = \\boxed{\\frac{2}{3}}$.", "\\frac{2}{3}"),
        ("5 bags of 8 are 5*8=<<5*8=40>>40.\n#### 40", "40"),
        ("#### 1,250\n", "1,250"),
        ("\\text{none}", "\\text{none}"),
        ("# of ways: 7", "# of ways: 7"),
    ],
)
def test_the_gold_of_a_worked_solution_is_its_end(solution, gold):
    assert final_gold(solution) == gold


def test_golds_of_all_usual_kinds_are_accepted():
    for gold in ["025", "-7", "\\frac{\\sqrt{3}}{2}", "A", "2^{25} \\cdot 26!", "(1, 2)"]:
        check_gold(gold)
