"""From the rewards of a group to its advantages: what length does to rewards, GRPO's normalisation,
the MaxEnt weight of MGPO. Pure functions; no configuration, no devices.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from vibelite.types import rewards_differ

Advantage = Literal["grpo", "no_std", "maxrl"]


@dataclass(frozen=True, slots=True)
class LengthShaping:
    """How rewards depend on length; without strength and margin they do not."""

    long2short: float = 0.0
    """Strength of `long2short`."""
    overlong_margin: int = 0
    """Tokens before `max_length` over which `overlong_penalty` falls."""
    max_length: int = 0

    @property
    def is_none(self) -> bool:
        return not (self.long2short or self.overlong_margin)


def shape_rewards(
    rewards: Sequence[float], lengths: Sequence[int], shaping: LengthShaping
) -> list[float]:
    """Rewards [G] of one group that advantages are computed from: exactly the verifier's where
    nothing is to be shaped. `lengths` [G] in tokens.
    """
    shaped = list(rewards)
    if shaping.long2short:
        shaped = long2short(shaped, lengths, strength=shaping.long2short)
    if shaping.overlong_margin:
        max_length, margin = shaping.max_length, shaping.overlong_margin
        shaped = [
            reward + overlong_penalty(length, max_length=max_length, margin=margin)
            for reward, length in zip(shaped, lengths, strict=True)
        ]
    return shaped


def long2short(rewards: Sequence[float], lengths: Sequence[int], *, strength: float) -> list[float]:
    """Rewards [G] in which short correct completions gain what long correct ones lose.

    Among the completions with reward 1, s_i = 1 / length_i and
    r_i' = r_i + strength * (s_i - mean s) / max_j |s_j - mean s|; all others keep their reward.
    The sum of the group stays what it was, and so does every reward if the lengths are equal.
    rewards [G] in [0, 1]; lengths [G] in tokens, at least 1. (VibeThinker-3B report, Long2Short,
    with strength 0.2)

    >>> long2short([1, 1, 0], [100, 300, 50], strength=0.2)
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


def group_advantages(rewards: Iterable[float], kind: Advantage = "grpo") -> list[float]:
    """Advantages [G] of one group of completions.

    grpo: (r - mean) / std, of the population (GRPO, VibeThinker report 3.4); no_std: r - mean (Dr.
    GRPO, arXiv 2503.20783); maxrl: (r - mean) / mean, which estimates the gradient of the log pass
    rate where rewards are 0 or 1 (MaxRL, arXiv 2602.02710). A group whose rewards are equal but for
    rounding carries no signal: its advantages are 0, not 0/0 or the noise blown up.

    >>> group_advantages([1.0, 0.0, 0.0, 1.0])
    [1.0, -1.0, -1.0, 1.0]
    """
    values = [float(reward) for reward in rewards]  # a tensor of rewards will do as well
    if not values:
        raise ValueError("a group needs at least one reward")
    if not rewards_differ(values):
        return [0.0] * len(values)
    mean = math.fsum(values) / len(values)
    match kind:
        case "grpo":
            scale = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
        case "no_std":
            scale = 1.0
        case "maxrl":
            scale = mean
    if scale <= 0:
        raise ValueError(f"maxrl needs rewards of a positive mean, got {values}")
    return [(value - mean) / scale for value in values]


def bernoulli_kl(p: float) -> float:
    """KL(Bernoulli(p) || Bernoulli(1/2)) in nats, with 0 log 0 = 0."""
    if not 0 <= p <= 1:
        raise ValueError(f"p must be a probability, got {p}")
    return sum(share * math.log(share / 0.5) for share in (p, 1 - p) if share > 0)


def maxent_weight(pass_rate: float, maxent_lambda: float) -> float:
    """Weight of a group in MGPO: exp(-lambda KL(pass_rate || 1/2)), in (0, 1] (VibeThinker report
    3.4).

    Largest where the model is as likely right as wrong; `maxent_lambda` 0 gives 1 for every group,
    which is GRPO.

    >>> round(maxent_weight(1 / 8, 4.0), 2)
    0.28
    """
    if maxent_lambda < 0:
        raise ValueError(f"maxent_lambda must not be negative, got {maxent_lambda}")
    return math.exp(-maxent_lambda * bernoulli_kl(pass_rate))


def mgpo_advantages(
    rewards: Iterable[float], pass_rate: float, maxent_lambda: float, kind: Advantage = "grpo"
) -> tuple[list[float], float]:
    """Advantages [G] of one group in MGPO: those of `group_advantages` times the group's MaxEnt
    weight; and that weight.

    >>> mgpo_advantages([1.0, 0.0, 0.0, 1.0], 0.5, 4.0)
    ([1.0, -1.0, -1.0, 1.0], 1.0)
    """
    weight = maxent_weight(pass_rate, maxent_lambda)
    return [weight * advantage for advantage in group_advantages(rewards, kind)], weight
