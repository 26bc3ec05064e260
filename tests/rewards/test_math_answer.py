"""Golds that answers can be compared with, and others."""

import pytest

from vibelite.errors import DataError
from vibelite.rewards.math_answer import check_gold


@pytest.mark.parametrize("gold", ["", "  ", "$$", "\\text{}"])
def test_a_gold_without_content_is_a_data_error(gold):
    with pytest.raises(DataError, match="cannot be read"):
        check_gold(gold)


def test_golds_of_all_usual_kinds_are_accepted():
    for gold in ["025", "-7", "\\frac{\\sqrt{3}}{2}", "A", "2^{25} \\cdot 26!", "(1, 2)"]:
        check_gold(gold)
