"""cons@n: is the most frequent of n answers the right one? No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def majority_vote(answers: Sequence[str | None], is_correct: Sequence[bool]) -> tuple[float, int]:
    """Probability (0..1) that the most frequent answer is right, and how many answers are the most
    frequent.

    Answers are equal as text; None is no answer and has no vote. Where several share the first
    place, one of them is drawn: the score is the share of them that is right (as in the evaluation
    scripts of the VibeThinker report). Samples of one answer share a verdict; where they do not,
    the answer is right by the share that was found right. Without any answer the score is 0.

    >>> majority_vote(["7", "7", "8", "8", "9", None], [True, True, False, False, False, False])
    (0.5, 2)
    """
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return 0.0, 0
    most = max(votes.values())
    winners = [answer for answer, count in votes.items() if count == most]
    num_right = sum(
        right for answer, right in zip(answers, is_correct, strict=True) if answer in winners
    )
    return num_right / (most * len(winners)), len(winners)
