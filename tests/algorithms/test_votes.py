"""Votes by hand: cons@n, and claim-level reliability."""

import pytest

from vibelite.algorithms.votes import majority_vote, reliability, weighted_vote


@pytest.mark.parametrize(
    ("answers", "right", "score", "num_winners"),
    [
        (["7", "8", "7"], {"7"}, 1.0, 1),
        (["7", "8", "8"], {"7"}, 0.0, 1),
        (["7", "8"], {"7"}, 0.5, 2),
        (["7", "8", "9"], {"7"}, 1 / 3, 3),
        (["7", None, None, None], {"7"}, 1.0, 1),
        ([None, None], set(), 0.0, 0),
        (["7", "7", "7.0", "8", "8"], {"7", "7.0"}, 0.5, 2),
    ],
    ids=["first", "second", "tie", "three", "no answer has no vote", "nobody votes", "as text"],
)
def test_the_most_frequent_answer_decides(answers, right, score, num_winners):
    is_correct = [answer in right for answer in answers]
    assert majority_vote(answers, is_correct) == (pytest.approx(score), num_winners)


def test_an_answer_with_two_verdicts_is_right_in_part():
    assert majority_vote(["7", "7", "8"], [True, False, True]) == (0.5, 1)


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [([1] * 5, 1.0), ([1, 1, 1, 1, 0], 0.8**5), ([0] * 5, 0.0), ([0.5, 1.0], 0.75**2), ([], 0.0)],
)
def test_reliability_is_the_mean_to_the_power_of_the_number_of_claims(verdicts, expected):
    assert reliability(verdicts) == pytest.approx(expected)


def test_the_answer_with_the_largest_sum_wins_although_others_are_more_frequent():
    answers = ["7", "8", "8", "8", None]
    correct = [True, False, False, False, False]
    weights = [reliability([1] * 5), *[reliability([1, 1, 1, 0, 1])] * 2, 0.0, 1.0]
    assert weights[1] * 2 == pytest.approx(0.65536)
    assert weighted_vote(answers, correct, weights) == (1.0, 1)
    assert weighted_vote(answers, correct, [1.0] * 5) == (0.0, 1)


def test_equal_sums_share_the_first_place():
    assert weighted_vote(["7", "8"], [True, False], [0.0, 0.0]) == (0.5, 2)
    assert weighted_vote(["7", "8", "8"], [True, False, False], [0.0] * 3) == (0.0, 1)
    assert weighted_vote(["7", "8", "8", None], [False, True, True, False], [0.0] * 4) == (1.0, 1)
    assert weighted_vote([None, None], [False, False], [1.0, 1.0]) == (0.0, 0)
