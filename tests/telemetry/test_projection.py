"""What a series of costs leads to: exact where it is regular, and honest where it is not."""

import numpy as np
import pytest

from vibelite.telemetry.projection import MIN_STEPS, WINDOW, project


def test_equal_costs_go_on_equal():
    ahead = project([2.0] * 12, 30, seed=0)
    assert ahead is not None
    assert (ahead.ahead, ahead.low, ahead.high) == pytest.approx((60.0, 60.0, 60.0))


def test_a_trend_is_followed_for_half_as_long_as_it_was_seen():
    ahead = project([float(step) for step in range(20)], 30, seed=0)
    assert ahead is not None
    # 20 to 29 as the line has it, then level at 29.
    assert ahead.ahead == pytest.approx(sum(range(20, 30)) + 20 * 29)


def test_what_was_long_ago_does_not_count():
    recent = [1.0, 2.0, 3.0] * WINDOW
    assert project([100.0] * 30 + recent, 10, seed=1) == project(recent, 10, seed=1)


def test_too_few_steps_say_nothing():
    assert project([1.0] * (MIN_STEPS - 1), 5, seed=0) is None
    assert project([1.0] * MIN_STEPS, 5, seed=0) is not None


def test_nothing_is_ahead_of_the_last_step_and_costs_are_never_negative():
    last = project([1.0, 2.0] * 10, 0, seed=0)
    assert last is not None and (last.ahead, last.low, last.high) == (0.0, 0.0, 0.0)
    falling = project([float(20 - step) for step in range(20)], 100, seed=0)
    assert falling is not None and 0.0 <= falling.low <= falling.ahead <= falling.high


def test_the_interval_widens_with_the_noise():
    draw = np.random.default_rng(0)
    noise = draw.standard_normal(40)
    widths = []
    for spread in (0.01, 0.1):
        ahead = project((1 + spread * noise).tolist(), 50, seed=0)
        assert ahead is not None
        widths.append(ahead.high - ahead.low)
    assert widths[1] == pytest.approx(10 * widths[0], rel=1e-6)


def test_about_four_of_five_intervals_hold_the_truth_for_independent_costs():
    draw = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        costs = draw.lognormal(0, 0.3, size=70)
        ahead = project(costs[:30].tolist(), 40, seed=0)
        assert ahead is not None
        hits += ahead.low <= costs[30:].sum() <= ahead.high
    assert 0.68 <= hits / 200 <= 0.88
