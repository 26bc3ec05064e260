"""Rewards that depend on length: pure functions over one group, applied to what the verifier gave.

Not here: the verdict itself, and advantages.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

# VibeThinker-3B report, the Long2Short stage.
LONG2SHORT_STRENGTH = 0.2


def long2short(
    rewards: Sequence[float], lengths: Sequence[int], *, strength: float = LONG2SHORT_STRENGTH
) -> list[float]:
    """Rewards [G] in which short correct completions gain what long correct ones lose.

    Among the completions with reward 1, s_i = 1 / length_i and
    r_i' = r_i + strength * (s_i - mean s) / max_j |s_j - mean s|; all others keep their reward.
    The sum of the group stays what it was, and so does every reward if the lengths are equal.
    rewards [G] in [0, 1]; lengths [G] in tokens, at least 1. (VibeThinker-3B report, Long2Short)

    >>> long2short([1, 1, 0], [100, 300, 50])
    [1.2, 0.8, 0]
    """
    correct = [i for i, reward in enumerate(rewards) if reward == 1]
    shaped = list(rewards)
    if len(correct) < 2 or len({lengths[i] for i in correct}) == 1:
        return shaped
    brevity = {i: 1 / lengths[i] for i in correct}
    mean = fmean(brevity.values())
    largest = max(abs(value - mean) for value in brevity.values())
    for i in correct:
        shaped[i] = rewards[i] + strength * (brevity[i] - mean) / largest
    return shaped


def overlong_penalty(length: int, *, max_length: int, margin: int) -> float:
    """What a completion of `length` tokens adds to its reward: 0 up to max_length - margin, then
    falling linearly to -1 at max_length and beyond. (DAPO, arXiv 2503.14476, section 3.4: soft
    overlong punishment)

    >>> overlong_penalty(14, max_length=16, margin=4)
    -0.5
    """
    assert 0 < margin <= max_length, f"margin {margin} of {max_length} tokens"
    return -min(max((length - (max_length - margin)) / margin, 0.0), 1.0) or 0.0
