"""Rewards shaped by length, against numbers computed by hand."""

import random

import pytest

from vibelite.algorithms.reward_shaping import long2short, overlong_penalty


def test_long2short_by_hand() -> None:
    """1/length of the correct ones: 0.01, 0.005, 0.0025; mean 7/1200, deviations 5/1200, -1/1200,
    -4/1200; divided by the largest: 1, -0.2, -0.8.
    """
    shaped = long2short([1, 1, 0, 1], [100, 200, 50, 400], strength=0.2)
    assert shaped == pytest.approx([1.2, 0.96, 0.0, 0.84], abs=1e-12)


def test_two_correct_completions_get_opposite_shifts_whatever_their_lengths() -> None:
    assert long2short([1, 1], [10, 11], strength=0.2) == pytest.approx([1.2, 0.8])
    assert long2short([1, 1], [60_000, 10], strength=0.5) == pytest.approx([0.5, 1.5])


@pytest.mark.parametrize(
    ("rewards", "lengths"),
    [
        ([1, 0, 0], [5, 6, 7]),
        ([0, 0], [5, 6]),
        ([1, 1, 0], [8, 8, 3]),
        ([0.5, 0.9], [5, 6]),
        ([1], [1]),
    ],
)
def test_long2short_changes_nothing_without_two_correct_lengths(
    rewards: list[float], lengths: list[int]
) -> None:
    assert long2short(rewards, lengths, strength=0.2) == rewards


def test_long2short_strength_zero_changes_nothing() -> None:
    assert long2short([1, 1, 0], [5, 9, 2], strength=0.0) == [1, 1, 0]


def test_long2short_moves_reward_among_the_correct_only_and_its_sum_stays() -> None:
    generator = random.Random(0)
    for _ in range(300):
        size = generator.randint(2, 16)
        rewards = [generator.choice([0.0, 0.3, 1.0]) for _ in range(size)]
        lengths = [generator.randint(1, 65_536) for _ in range(size)]
        shaped = long2short(rewards, lengths, strength=0.2)
        assert sum(shaped) == pytest.approx(sum(rewards), abs=1e-9)
        correct = sorted((lengths[i], -shaped[i]) for i in range(size) if rewards[i] == 1)
        assert [x for _, x in correct] == sorted(x for _, x in correct), "shorter is never worse"
        assert all(abs(shaped[i] - rewards[i]) <= 0.2 + 1e-12 for i in range(size))
        assert all(shaped[i] == rewards[i] for i in range(size) if rewards[i] != 1)


def test_long2short_does_not_write_into_its_argument() -> None:
    rewards = [1.0, 1.0]
    long2short(rewards, [1, 2])
    assert rewards == [1.0, 1.0]


@pytest.mark.parametrize(
    ("length", "penalty"),
    [(1, 0), (11, 0), (12, 0), (13, -0.25), (14, -0.5), (15, -0.75), (16, -1), (17, -1), (99, -1)],
)
def test_the_overlong_penalty_falls_linearly_over_the_margin(length: int, penalty: float) -> None:
    result = overlong_penalty(length, max_length=16, margin=4)
    assert result == penalty
    assert str(result) != "-0.0"


def test_the_overlong_penalty_of_the_paper() -> None:
    """16,384 tokens without penalty and 4,096 of margin: half of it costs half."""
    assert overlong_penalty(16_384 + 2_048, max_length=20_480, margin=4_096) == -0.5


@pytest.mark.parametrize("margin", [0, 17])
def test_a_margin_that_makes_no_sense_is_refused(margin: int) -> None:
    with pytest.raises(AssertionError, match=f"margin {margin} of 16 tokens"):
        overlong_penalty(5, max_length=16, margin=margin)
