"""Advantages, MaxEnt weights and rewards shaped by length, against numbers computed by hand
(VibeThinker report 3.4).
"""

import math
import random

import pytest

from vibelite.algorithms.advantages import (
    LengthShaping,
    bernoulli_kl,
    group_advantages,
    long2short,
    maxent_weight,
    mgpo_advantages,
    overlong_penalty,
    shape_rewards,
)


@pytest.mark.parametrize(
    ("pass_rate", "divergence"),
    [(1 / 8, 0.316), (2 / 8, 0.131), (3 / 8, 0.032), (0.5, 0.0), (0.0, math.log(2))],
)
def test_divergence_from_one_half_has_the_hand_computed_values(pass_rate, divergence):
    assert bernoulli_kl(pass_rate) == pytest.approx(divergence, abs=5e-4)
    assert bernoulli_kl(1 - pass_rate) == pytest.approx(divergence, abs=5e-4)


@pytest.mark.parametrize(
    ("maxent_lambda", "weights"), [(1.0, (0.73, 0.88, 0.97)), (4.0, (0.28, 0.59, 0.88))]
)
def test_maxent_weights_of_a_group_of_eight(maxent_lambda, weights):
    computed = [maxent_weight(correct / 8, maxent_lambda) for correct in (1, 2, 3)]
    assert computed == pytest.approx(weights, abs=5e-3)


def test_lambda_zero_weighs_every_group_exactly_one():
    assert [maxent_weight(correct / 8, 0.0) for correct in range(9)] == [1.0] * 9


@pytest.mark.parametrize("bad", [(-0.1, 1.0), (1.1, 1.0), (math.nan, 1.0), (0.5, -1.0)])
def test_a_pass_rate_or_lambda_out_of_bounds_is_refused(bad):
    with pytest.raises(ValueError, match="probability|negative"):
        maxent_weight(*bad)


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.3])
def test_equal_rewards_have_exactly_zero_advantage(reward):
    assert group_advantages([reward] * 8) == [0.0] * 8


def test_other_scales_by_hand():
    rewards = [1.0, 0.0, 0.0, 0.0]  # mean 1/4
    assert group_advantages(rewards, "no_std") == [0.75, -0.25, -0.25, -0.25]
    assert group_advantages(rewards, "maxrl") == [3.0, -1.0, -1.0, -1.0]
    assert group_advantages([0.5, 0.25, 0.0, 0.25], "maxrl") == [1.0, 0.0, -1.0, 0.0]
    assert mgpo_advantages(rewards, 0.25, 1.0, "no_std")[0][0] == pytest.approx(
        0.75 * maxent_weight(0.25, 1.0)
    )
    with pytest.raises(ValueError, match="positive mean"):
        group_advantages([-1.0, 0.5], "maxrl")


@pytest.mark.parametrize("kind", ["grpo", "no_std", "maxrl"])
def test_equal_but_for_rounding_is_equal(kind):
    assert group_advantages([0.1 + 0.2, 0.3, 0.3, 0.3], kind) == [0.0] * 4
    assert group_advantages([0.3, 0.1 + 0.2, 0.3, 0.3], kind) == [0.0] * 4


def test_maxrl_estimates_the_gradient_of_the_log_pass_rate():
    """Of a coin with p = 0.3, whose log-prob has the derivative 1/p or -1/(1-p): over all groups of
    six, those without a right one left out, as the estimator of arXiv 2602.02710 does.
    """
    p, size = 0.3, 6
    slope = {1: 1 / p, 0: -1 / (1 - p)}
    expected = total = 0.0
    for outcome in range(2**size):
        rewards = [float(outcome >> bit & 1) for bit in range(size)]
        chance = math.prod(p if reward else 1 - p for reward in rewards)
        if any(rewards):
            successes = [slope[1] for reward in rewards if reward]
            expected += chance * sum(successes) / len(successes)
        advantages = group_advantages(rewards, "maxrl")
        total += (
            chance * sum(a * slope[int(r)] for a, r in zip(advantages, rewards, strict=True)) / size
        )
    all_right = p**size * slope[1]  # the baseline takes the gradient of such a group away
    baseline = (
        sum(
            math.comb(size, k)
            * p**k
            * (1 - p) ** (size - k)
            * (k * slope[1] + (size - k) * slope[0])
            for k in range(1, size)
        )
        / size
    )
    assert total == pytest.approx(expected - all_right - baseline, rel=1e-12)


def test_advantages_of_one_correct_in_four():
    # mean 1/4, population std sqrt(3)/4: (1 - 1/4) / (sqrt(3)/4) = sqrt(3), and -1/sqrt(3) for the
    # others.
    expected = [math.sqrt(3), -1 / math.sqrt(3), -1 / math.sqrt(3), -1 / math.sqrt(3)]
    assert group_advantages([1.0, 0.0, 0.0, 0.0]) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(
    "rewards", [[0.1 + 0.2, 0.3, 0.3, 0.3], [0.3, 0.1 + 0.2, 0.3, 0.3], [0.7] * 3, [1 - 1e-9, 1.0]]
)
def test_rewards_that_differ_by_rounding_alone_are_equal(rewards):
    assert group_advantages(rewards) == [0.0] * len(rewards)


def test_graded_rewards_have_advantages_of_their_own():
    """Mean 0.5, population std sqrt(0.125)."""
    expected = [-math.sqrt(2), 0.0, 0.0, math.sqrt(2)]
    assert group_advantages([0.0, 0.5, 0.5, 1.0]) == pytest.approx(expected, rel=1e-14)


def test_an_empty_group_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        group_advantages([])


@pytest.mark.parametrize("rewards", [[1.0, 0, 0, 0], [1.0, 1, 1, 0], [1.0] * 4, [0.5, 0, 1, 0]])
def test_lambda_zero_is_grpo(rewards):
    """Bit for bit, and so are loss and gradient."""
    pass_rate = rewards.count(1.0) / 4
    assert mgpo_advantages(rewards, pass_rate, 0.0) == (group_advantages(rewards), 1.0)


def test_mgpo_advantages_of_one_correct_in_four():
    """KL(1/4 || 1/2) = ln(1/2) / 4 + 3 ln(3/2) / 4, so that lambda 4 weighs 2 / (3/2)^3 = 16/27."""
    advantages, weight = mgpo_advantages([0.0, 0.0, 1.0, 0.0], 1 / 4, 4.0)
    assert weight == pytest.approx(16 / 27, rel=1e-14)
    small, large = -16 / 27 / math.sqrt(3), 16 / 27 * math.sqrt(3)
    assert advantages == pytest.approx([small, small, large, small], rel=1e-14)


def test_long2short_by_hand() -> None:
    """1/length of the correct ones: 0.01, 0.005, 0.0025; mean 7/1200, deviations 5/1200, -1/1200,
    -4/1200; divided by the largest: 1, -0.2, -0.8.
    """
    shaped = long2short([1, 1, 0, 1], [100, 200, 50, 400], strength=0.2)
    assert shaped == pytest.approx([1.2, 0.96, 0.0, 0.84], abs=1e-12)


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


@pytest.mark.parametrize(
    ("length", "penalty"),
    [(1, 0), (11, 0), (12, 0), (13, -0.25), (14, -0.5), (15, -0.75), (16, -1), (17, -1), (99, -1)],
)
def test_the_overlong_penalty_falls_linearly_over_the_margin(length: int, penalty: float) -> None:
    result = overlong_penalty(length, max_length=16, margin=4)
    assert result == penalty
    assert str(result) != "-0.0"


@pytest.mark.parametrize("margin", [0, 17])
def test_a_margin_that_makes_no_sense_is_refused(margin: int) -> None:
    with pytest.raises(AssertionError, match=f"margin {margin} of 16 tokens"):
        overlong_penalty(5, max_length=16, margin=margin)


def test_without_shaping_rewards_stay_what_they_are() -> None:
    assert shape_rewards([1.0, 0.3, 0.0], [5, 10, 14], LengthShaping(max_length=16)) == [1, 0.3, 0]


def test_both_shapings_add_up() -> None:
    """A margin of 8 of 16 tokens: 8 tokens cost nothing, 12 cost 0.5."""
    shaping = LengthShaping(long2short=0.2, overlong_margin=8, max_length=16)
    assert shape_rewards([1, 1], [8, 12], shaping) == pytest.approx([1.2, 0.8 - 0.5])
