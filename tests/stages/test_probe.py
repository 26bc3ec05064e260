"""Which checkpoint becomes a sub-domain's specialist, and the numbers that decide it."""

from itertools import combinations
from statistics import fmean

import pytest

from vibelite.stages.probe import choose_specialist, mean_pass_at_k
from vibelite.types import Completion, FinishReason, Group, Problem, Verdict


def make_group(name, subdomain, outcomes, finish_reason: FinishReason = "stop"):
    completions = tuple(Completion((1,) * 3, (0.0,) * 3, finish_reason, "") for _ in outcomes)
    verdicts = tuple(Verdict(float(outcome), bool(outcome)) for outcome in outcomes)
    return Group(Problem(name, subdomain, (), "", "exact"), (1,), completions, verdicts)


GROUPS = [
    make_group("a", "algebra", [1, 0, 0, 0]),
    make_group("b", "algebra", [1, 1, 1, 0]),
    make_group("c", "number", [0, 0, 0, 0], "length"),
]


def enumerated(outcomes, k):
    return fmean(any(chosen) for chosen in combinations(outcomes, k))


def test_pass_at_k_of_a_subdomain_is_the_mean_over_its_problems():
    expected = fmean([enumerated([1, 0, 0, 0], 2), enumerated([1, 1, 1, 0], 2)])
    assert mean_pass_at_k(GROUPS, 2) == pytest.approx({"algebra": expected, "number": 0.0})
    assert mean_pass_at_k(GROUPS, 1)["algebra"] == pytest.approx(0.5)


def make_score(step, pass_at_k, pass_at_1):
    return {"step": step, "pass_at_k": {"algebra": pass_at_k}, "pass_at_1": {"algebra": pass_at_1}}


@pytest.mark.parametrize(
    ("scores", "winner"),
    [
        ([(1, 0.5, 0.9), (2, 0.6, 0.1), (3, 0.4, 0.9)], 2),
        ([(1, 0.6, 0.2), (2, 0.6, 0.3), (3, 0.5, 0.9)], 2),
        ([(1, 0.6, 0.3), (2, 0.6, 0.3), (3, 0.6, 0.1)], 2),
    ],
    ids=["best Pass@k", "tie goes to Pass@1", "then to the later step"],
)
def test_the_specialist_is_the_argmax(scores, winner):
    assert choose_specialist([make_score(*score) for score in scores], "algebra") == winner
