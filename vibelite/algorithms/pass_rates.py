"""What is believed of problems' pass rates from the groups that were sampled of them: a Beta
posterior each, from a prior and counts that fade. Pure: nothing is drawn here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

# Jeffreys' prior: before anything is known, rates near 0 and 1 are the likelier ones.
PRIOR = 0.5


def no_counts(num_problems: int) -> torch.Tensor:
    """Counts [P, 2] float64 of successes and failures of problems of which nothing is known."""
    return torch.zeros(num_problems, 2, dtype=torch.float64)


def update_counts(
    counts: torch.Tensor, decay: float, places: Sequence[int], rates: Sequence[float], size: int
) -> None:
    """Lets all `counts` [P, 2] fade to their share `decay`, then adds a group of `size` completions
    to each of `places` [N], in place; of a group's `rates` [N] (mean rewards, 0..1) that share are
    successes. A place may come twice. (own)

    >>> counts = no_counts(2)
    >>> update_counts(counts, 0.5, [1], [0.25], 8)
    >>> counts.tolist()
    [[0.0, 0.0], [2.0, 6.0]]
    """
    counts.mul_(decay)
    successes = torch.tensor(rates, dtype=torch.float64) * size
    added = torch.stack([successes, size - successes], dim=1)  # [N, 2]
    counts.index_add_(0, torch.tensor(places, dtype=torch.long), added)


def mixed_probability(counts: torch.Tensor, size: int) -> torch.Tensor:
    """Chance [P] that `size` completions are neither all right nor all wrong after `counts` [P, 2]:
    1 - E[p^G] - E[(1 - p)^G] for p ~ Beta(a, b), a and b the counts and the prior, where
    E[p^G] = B(a + G, b) / B(a, b) = product of (a + i) / (a + b + i) for i < G (beta-binomial).

    >>> mixed_probability(no_counts(1), 2).tolist()  # 1 - 2 (1/2 3/2) / (1 2)
    [0.25]
    """
    shapes = counts + PRIOR  # a and b
    trial = torch.arange(size, dtype=torch.float64)
    total = shapes.sum(1, keepdim=True) + trial  # [P, G]
    all_equal = (shapes[:, :, None] + trial) / total[:, None]  # [P, 2, G]
    return (1 - all_equal.prod(2).sum(1)).clamp(0, 1)
