"""Group-relative advantages and the MaxEnt weight of MGPO. Pure functions; no configuration, no
devices.
"""

from __future__ import annotations

import math
from collections.abc import Iterable


def group_advantages(rewards: Iterable[float]) -> list[float]:
    """Advantages [G] = (r - mean) / std over one group of completions (population std; GRPO,
    VibeThinker report 3.4).

    A group whose rewards are all equal carries no signal: its advantages are exactly 0, not 0/0.

    >>> group_advantages([1.0, 0.0, 0.0, 1.0])
    [1.0, -1.0, -1.0, 1.0]
    """
    values = [float(reward) for reward in rewards]  # a tensor of rewards will do as well
    if not values:
        raise ValueError("a group needs at least one reward")
    if all(value == values[0] for value in values):
        return [0.0] * len(values)
    mean = math.fsum(values) / len(values)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
    return [(value - mean) / std for value in values]


def bernoulli_kl(p: float, q: float) -> float:
    """KL(Bernoulli(p) || Bernoulli(q)) in nats, with 0 log 0 = 0; q strictly between 0 and 1."""
    if not 0 <= p <= 1:
        raise ValueError(f"p must be a probability, got {p}")
    if not 0 < q < 1:
        raise ValueError(f"q must lie strictly between 0 and 1, got {q}")
    kl = 0.0
    if p > 0:
        kl += p * math.log(p / q)
    if p < 1:
        kl += (1 - p) * math.log((1 - p) / (1 - q))
    return kl


def maxent_weight(pass_rate: float, maxent_lambda: float, *, target: float = 0.5) -> float:
    """Weight of a group in MGPO: exp(-lambda KL(pass_rate || target)), in (0, 1] (VibeThinker
    report 3.4).

    Largest where the model is as likely right as wrong; `maxent_lambda` 0 gives 1 for every group,
    which is GRPO.

    >>> round(maxent_weight(1 / 8, 4.0), 2)
    0.28
    """
    if maxent_lambda < 0:
        raise ValueError(f"maxent_lambda must not be negative, got {maxent_lambda}")
    return math.exp(-maxent_lambda * bernoulli_kl(pass_rate, target))
