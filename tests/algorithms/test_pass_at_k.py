"""Pass@k against the enumeration of every way to draw k samples."""

from fractions import Fraction
from itertools import combinations
from math import comb

import pytest

from vibelite.algorithms.pass_at_k import pass_at_k


@pytest.mark.parametrize("num_samples", [1, 2, 5, 9])
def test_equals_the_share_of_draws_with_a_correct_sample(num_samples):
    for num_correct in range(num_samples + 1):
        outcomes = [index < num_correct for index in range(num_samples)]
        for k in range(1, num_samples + 1):
            draws = [any(draw) for draw in combinations(outcomes, k)]
            expected = sum(draws) / len(draws)
            assert pass_at_k(num_samples, num_correct, k) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("num_samples", [16, 64, 256])
def test_equals_exact_arithmetic_at_the_sizes_of_the_report(num_samples):
    for num_correct in range(num_samples + 1):
        for k in (1, 2, 8, num_samples // 2, num_samples):
            wrong = Fraction(comb(num_samples - num_correct, k), comb(num_samples, k))
            assert pass_at_k(num_samples, num_correct, k) == pytest.approx(
                float(1 - wrong), abs=2e-15
            )


def test_k_of_one_is_the_pass_rate():
    assert pass_at_k(16, 5, 1) == pytest.approx(5 / 16, abs=1e-15)


def test_certain_outcomes_are_exact():
    assert pass_at_k(64, 0, 8) == 0.0
    assert pass_at_k(64, 64, 1) == 1.0
    assert pass_at_k(64, 57, 8) == 1.0


def test_large_counts_neither_overflow_nor_lose_precision():
    # 1 - (1 - 1/n)...: with one correct sample, Pass@k is exactly k/n.
    assert pass_at_k(100_000, 1, 64) == pytest.approx(64 / 100_000, rel=1e-9)


@pytest.mark.parametrize(
    ("num_samples", "num_correct", "k"), [(4, 1, 5), (4, 1, 0), (4, 5, 1), (4, -1, 1), (0, 0, 1)]
)
def test_impossible_counts_are_refused(num_samples, num_correct, k):
    with pytest.raises(ValueError, match="must lie in"):
        pass_at_k(num_samples, num_correct, k)
