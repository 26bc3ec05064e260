"""cons@n by hand."""

import pytest

from vibelite.algorithms.majority_vote import majority_vote


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
