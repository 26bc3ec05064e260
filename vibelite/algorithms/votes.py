"""Which of several sampled answers wins: by majority (cons@n), or weighted by what each solution's
own claims are worth (CLR, VibeThinker-3B report). No torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean


def majority_vote(answers: Sequence[str | None], is_correct: Sequence[bool]) -> tuple[float, int]:
    """cons@n: `weighted_vote` with the same weight for every answer (as in the evaluation scripts
    of the VibeThinker report).

    >>> majority_vote(["7", "7", "8", "8", "9", None], [True, True, False, False, False, False])
    (0.5, 2)
    """
    return weighted_vote(answers, is_correct, [1.0] * len(answers))


def weighted_vote(
    answers: Sequence[str | None], is_correct: Sequence[bool], weights: Sequence[float]
) -> tuple[float, int]:
    """Probability (0..1) that the answer with the largest summed weight is right, and how many
    answers share that sum.

    Answers are equal as text; None is no answer and has no vote. Where all weights are 0 the
    majority decides. Among answers that share the first place one is drawn. Samples of one answer
    share a verdict; where they do not, the answer is right by the share that was found right.
    Without any answer the score is 0.

    >>> weighted_vote(["7", "8", "8"], [True, False, False], [0.9, 0.3, 0.4])
    (1.0, 1)
    """
    places: dict[str, list[int]] = {}
    for place, answer in enumerate(answers):
        if answer is not None:
            places.setdefault(answer, []).append(place)
    if not places:
        return 0.0, 0
    if not any(weights[i] for members in places.values() for i in members):
        weights = [1.0] * len(answers)
    sums = {answer: math.fsum(weights[i] for i in members) for answer, members in places.items()}
    most = max(sums.values())
    winners = [answer for answer, total in sums.items() if total == most]
    right = [fmean(is_correct[i] for i in places[answer]) for answer in winners]
    return fmean(right), len(winners)


def reliability(verdicts: Sequence[float]) -> float:
    """(mean verdict)^M of a trajectory's M claims, verdicts in 0..1; 0 without a claim.

    The power M makes one doubtful claim cost about as much as one claim of a product would.

    >>> reliability([1, 1, 1, 1, 0])
    0.32768
    """
    if not verdicts:
        return 0.0
    return fmean(verdicts) ** len(verdicts)
