"""Costs per token and per completion against numbers computed by hand."""

from decimal import Decimal

import pytest

from vibelite.telemetry.unit_costs import completion_counts, unit_costs, zero_signal_share
from vibelite.types import Completion, Group, Problem, Verdict


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
