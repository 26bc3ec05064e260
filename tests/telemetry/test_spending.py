"""What is still to come, and what a unit cost, against numbers computed by hand."""

from decimal import Decimal

import numpy as np
import pytest

from vibelite.telemetry.spending import (
    MIN_STEPS,
    WINDOW,
    completion_counts,
    project,
    unit_costs,
    zero_signal_share,
)
from vibelite.types import Completion, Group, Problem, Verdict


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


def make_group(outcomes: list[bool | None], num_tokens: int) -> Group:
    problem = Problem("p", "algebra", ({"role": "user", "content": "?"},), "1", "math")
    ids, logprobs = (1,) * num_tokens, (0.0,) * num_tokens
    completions = tuple(Completion(ids, logprobs, "stop", "") for _ in outcomes)
    verdicts = tuple(Verdict(float(outcome is True), outcome) for outcome in outcomes)
    return Group(problem, (1,), completions, verdicts)


def test_useful_completions_are_those_in_groups_of_mixed_outcomes():
    groups = [
        make_group([True, False, False, None], 10),
        make_group([True] * 4, 20),
        make_group([False] * 4, 30),
    ]
    assert completion_counts(groups) == {
        "num_completions": 12,
        "num_correct": 5,
        "num_useful": 4,
        "zero_signal_tokens": 4 * 20 + 4 * 30,
        "group_tokens": 4 * (10 + 20 + 30),
    }


def test_all_that_was_spent_is_divided_by_what_was_made():
    spans = {"rollout": 5, "verify": 1, "train": 4}
    counts = {"num_correct": 8, "num_useful": 3, "zero_signal_tokens": 30, "group_tokens": 40}
    assert unit_costs(Decimal(6), {"generated": 3000, "trained": 1000}, counts) == {
        "1M generated": 2000,
        "1M trained": 6000,
        "correct": Decimal("0.75"),
        "useful": 2,
    }
    assert zero_signal_share(spans, counts) == pytest.approx(0.75 * 0.6)


def test_nothing_made_and_nothing_known_have_no_cost_per_unit():
    assert unit_costs(Decimal(6), {"generated": 0}, {"num_correct": 0}) == {}
    assert unit_costs(None, {"generated": 9}, {"num_correct": 1}) == {}
    assert zero_signal_share({"train": 1}, {}) is None
