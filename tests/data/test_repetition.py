"""Loops against mathematics that repeats itself for good reasons."""

import random

import pytest

from vibelite.data.decontaminate import REPETITION_WORDS, repeated_share


def words(number: int, seed: int = 0) -> str:
    return " ".join(random.Random(seed).choices([f"w{n}" for n in range(500)], k=number))


def test_a_text_without_repetition_has_a_share_of_zero() -> None:
    assert repeated_share(words(1000)) == 0


@pytest.mark.parametrize("period", [1, 7, 40, 150])
def test_a_loop_in_the_second_half_has_a_share_of_about_one_half(period: int) -> None:
    loop = words(period, seed=1).split()
    text = words(600) + " " + " ".join((loop * 600)[:600])
    expected = (600 - period - REPETITION_WORDS) / 1200
    assert repeated_share(text) == pytest.approx(expected, abs=0.03)


def test_case_and_punctuation_do_not_hide_a_loop() -> None:
    part = words(40)
    text = " ".join(part.upper() + "!" * n for n in range(10))
    assert repeated_share(text) > 0.8


def test_short_texts_and_short_phrases_are_no_loops() -> None:
    assert repeated_share("wait " * 63) == 0
    steps = [f"We get x = {n} and so f({n}) = {n * n}, which is not prime." for n in range(200)]
    assert repeated_share(" ".join(steps)) == 0


def test_the_share_of_the_shortest_text_that_can_show_a_loop_is_exact():
    assert repeated_share("again " * 64) == 1 - 1 / 49  # 49 runs of 16 words, all the same
