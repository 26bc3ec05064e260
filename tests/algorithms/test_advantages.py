"""MaxEnt weights and group advantages against hand-computed numbers (VibeThinker report 3.4)."""

import math
import random
import statistics
from typing import Any

import pytest
import torch

from vibelite.algorithms.advantages import bernoulli_kl, group_advantages, maxent_weight


@pytest.mark.parametrize(
    ("pass_rate", "divergence"),
    [(1 / 8, 0.316), (2 / 8, 0.131), (3 / 8, 0.032), (1 / 16, 0.459), (0.5, 0.0)],
)
def test_divergence_from_one_half_has_the_hand_computed_values(pass_rate, divergence):
    assert bernoulli_kl(pass_rate, 0.5) == pytest.approx(divergence, abs=5e-4)
    assert bernoulli_kl(1 - pass_rate, 0.5) == pytest.approx(divergence, abs=5e-4)


def test_divergence_of_a_certain_outcome_is_log_two():
    assert bernoulli_kl(0.0, 0.5) == math.log(2)
    assert bernoulli_kl(1.0, 0.5) == math.log(2)


def test_divergence_agrees_with_its_definition_for_other_targets():
    p, q = 0.3, 0.7
    expected = 0.3 * math.log(0.3 / 0.7) + 0.7 * math.log(0.7 / 0.3)
    assert bernoulli_kl(p, q) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("maxent_lambda", "weights"), [(1.0, (0.73, 0.88, 0.97)), (4.0, (0.28, 0.59, 0.88))]
)
def test_maxent_weights_of_a_group_of_eight(maxent_lambda, weights):
    computed = [maxent_weight(correct / 8, maxent_lambda) for correct in (1, 2, 3)]
    assert computed == pytest.approx(weights, abs=5e-3)


def test_lambda_zero_weighs_every_group_exactly_one():
    assert [maxent_weight(correct / 8, 0.0) for correct in range(9)] == [1.0] * 9


def test_weight_is_largest_at_the_target():
    assert maxent_weight(0.25, 3.0, target=0.25) == 1.0
    assert maxent_weight(0.5, 3.0, target=0.25) < 1.0


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
def test_pass_rates_outside_zero_to_one_are_refused(bad):
    with pytest.raises(ValueError, match="probability"):
        maxent_weight(bad, 1.0)


def test_negative_lambda_is_refused():
    with pytest.raises(ValueError, match="negative"):
        maxent_weight(0.5, -1.0)


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.3])
def test_equal_rewards_have_exactly_zero_advantage(reward):
    assert group_advantages([reward] * 8) == [0.0] * 8


def test_advantages_of_one_correct_in_four():
    # mean 1/4, population std sqrt(3)/4: (1 - 1/4) / (sqrt(3)/4) = sqrt(3), and -1/sqrt(3) for the
    # others.
    expected = [math.sqrt(3), -1 / math.sqrt(3), -1 / math.sqrt(3), -1 / math.sqrt(3)]
    assert group_advantages([1.0, 0.0, 0.0, 0.0]) == pytest.approx(expected, rel=1e-14)


def test_advantages_have_mean_zero_and_variance_one():
    draw = random.Random(0)
    for _ in range(100):
        rewards = [draw.random() for _ in range(draw.randint(2, 16))]
        advantages = group_advantages(rewards)
        assert statistics.fmean(advantages) == pytest.approx(0, abs=1e-12)
        assert statistics.pvariance(advantages) == pytest.approx(1, rel=1e-9)


def test_a_tensor_of_rewards_gives_the_same():
    rewards = [1.0, 0.0, 0.25]
    tensor: Any = torch.tensor(rewards)
    assert group_advantages(tensor) == group_advantages(rewards)


def test_an_empty_group_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        group_advantages([])
