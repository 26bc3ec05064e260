import pytest

from vibelite.algorithms.claim_reliability import reliability, weighted_vote
from vibelite.algorithms.majority_vote import majority_vote


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
    assert weighted_vote([None, None], [False, False], [1.0, 1.0]) == (0.0, 0)


def test_equal_weights_give_the_majority():
    answers = ["1", "2", "2", "3", "3", None]
    correct = [False, True, True, False, False, False]
    expected = majority_vote(answers, correct)
    assert weighted_vote(answers, correct, [0.25] * 6) == expected == (0.5, 2)
