"""Answers of generated problems and exact answers."""

import pytest

from vibelite.rewards.procedural import check_exact, check_procedural


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
