import random

import pytest

from vibelite.algorithms.learning_potential import (
    ScoredTrace,
    fence,
    length_buckets,
    select_traces,
)

EVERYTHING = {"min_tokens": 0, "num_length_buckets": 1, "keep_from": 0.0, "max_per_problem": 99}


def traces(*rows):
    return [ScoredTrace(*row) for row in rows]


def test_the_choice_by_hand():
    given = traces(
        ("a", "algebra", 5, 2.0),  # 0: too short
        ("a", "algebra", 20, 0.1),  # 1: the easier half of the short bucket
        ("b", "algebra", 21, 0.2),  # 2: stays
        ("a", "algebra", 90, 0.6),  # 3: stays
        ("b", "algebra", 91, 0.5),  # 4: the easier half of the long bucket
        ("c", "geometry", 30, 0.3),  # 5: stays: one of one
    )
    choice = select_traces(
        given, min_tokens=10, num_length_buckets=2, keep_from=0.5, max_per_problem=4
    )
    assert choice.chosen == [2, 3, 5]
    assert choice.dropped == {"short": 1, "outlier": 0, "easy": 2, "repeated problem": 0}


def test_high_outliers_are_dropped_and_low_ones_are_merely_easy():
    scores = [0.01, 0.5, 0.55, 0.6, 0.62, 0.64, 0.7, 5.0]
    given = [ScoredTrace(f"p{i}", "d", 50, score) for i, score in enumerate(scores)]
    choice = select_traces(given, **EVERYTHING)
    assert choice.chosen == list(range(7)) and choice.dropped["outlier"] == 1


def test_of_a_problem_the_highest_scores_stay():
    given = [ScoredTrace("same", "d", 50, score) for score in (0.3, 0.5, 0.4, 0.5)]
    choice = select_traces(given, **EVERYTHING | {"max_per_problem": 2})
    assert choice.chosen == [1, 3] and choice.dropped["repeated problem"] == 2


@pytest.mark.parametrize("seed", range(20))
def test_every_trace_is_chosen_or_dropped_once(seed):
    draw = random.Random(seed)
    given = [
        ScoredTrace(
            f"p{draw.randrange(9)}", draw.choice("xyz"), draw.randrange(1, 99), draw.random()
        )
        for _ in range(draw.randrange(0, 80))
    ]
    choice = select_traces(
        given,
        min_tokens=draw.randrange(30),
        num_length_buckets=draw.randrange(1, 6),
        keep_from=draw.random(),
        max_per_problem=draw.randrange(1, 5),
    )
    assert len(choice.chosen) + sum(choice.dropped.values()) == len(given)
    assert choice.chosen == sorted(set(choice.chosen))


def test_buckets_are_of_equal_size_and_ordered_by_length():
    buckets = length_buckets([random.Random(0).randrange(1000) for _ in range(1)] * 3, 5)
    assert [len(bucket) for bucket in buckets] == [1, 1, 1]
    lengths = [random.Random(i).randrange(1000) for i in range(103)]
    buckets = length_buckets(lengths, 4)
    assert sorted(map(len, buckets)) == [25, 26, 26, 26]
    for shorter, longer in zip(buckets, buckets[1:], strict=False):
        assert max(lengths[i] for i in shorter) <= min(lengths[i] for i in longer)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([3.0], 3.0), ([1.0, 2.0], 2.5), ([1.0, 2.0, 3.0, 10.0], 9.25), ([1.0, 2, 3, 4, 5], 7.0)],
)
def test_the_fence_by_hand(scores, expected):
    """Of 1, 2, 3, 10 the quartiles are 1.75 and 4.75: 4.75 + 1.5 * 3."""
    assert fence(scores) == pytest.approx(expected)
