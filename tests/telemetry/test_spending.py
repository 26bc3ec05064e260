"""What is still to come, from what the last steps cost."""

import numpy as np
import pytest

from vibelite.telemetry.spending import MIN_STEPS, WINDOW, project


def test_the_interval_by_hand():
    # Mean 2, standard deviation sqrt(20 / 19); 5 steps ahead of 20: 5 + 25 / 20 = 6.25.
    middle, low, high = project([1.0, 3.0] * 10, 5)  # type: ignore[misc]
    reach = 1.2815515655 * (20 / 19) ** 0.5 * 2.5
    assert (middle, low, high) == pytest.approx((10.0, 10.0 - reach, 10.0 + reach))


def test_what_was_long_ago_does_not_count():
    recent = [1.0, 2.0, 3.0] * WINDOW
    assert project([100.0] * 30 + recent, 10) == project(recent, 10)


def test_too_few_steps_say_nothing():
    assert project([1.0] * (MIN_STEPS - 1), 5) is None
    assert project([1.0] * MIN_STEPS, 5) is not None


def test_nothing_is_ahead_of_the_last_step_and_costs_are_never_negative():
    assert project([1.0, 2.0] * 10, 0) == (0.0, 0.0, 0.0)
    _, low, _ = project([0.0] * 11 + [50.0], 3)  # type: ignore[misc]
    assert low == 0.0


def test_about_four_of_five_intervals_hold_the_truth_for_independent_costs():
    draw = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        costs = draw.lognormal(0, 0.3, size=70)
        ahead = project(costs[:30].tolist(), 40)
        assert ahead is not None
        hits += ahead[1] <= costs[30:].sum() <= ahead[2]
    assert 0.74 <= hits / 400 <= 0.86
