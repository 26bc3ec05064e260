"""How far the sampler's log-probs are from the trainer's on the same tokens, and which completions
to leave out for it. Pure functions; all log-ratios are trainer - sampler, in nats.
"""

from __future__ import annotations

import torch


def mismatch_metrics(log_ratios: torch.Tensor) -> dict[str, float]:
    """Statistics over N tokens' log-ratios d [N], sampled by the sampler.

    mean_abs, max_abs of d; k3 = mean(exp(d) - 1 - d), an unbiased estimate of KL(sampler ||
    trainer) per token with every term >= 0 (Schulman, "Approximating KL divergence", 2020);
    effective_sample_share = (sum w)^2 / (N sum w^2) of the weights w = exp(d), 0..1: the share of
    as many tokens drawn from the trainer that would estimate a mean as well (Kong, 1992).
    """
    d = log_ratios.double()
    # expm1: exp(d) - 1 would lose everything below 1e-7 to cancellation, and so turn negative.
    k3 = torch.expm1(d) - d
    # Weights relative to the largest: their scale cancels, and none overflows.
    weights = torch.exp(d - d.max())
    share = weights.sum().square() / (len(d) * weights.square().sum())
    return {
        "mismatch/mean_abs": d.abs().mean().item(),
        "mismatch/max_abs": d.abs().max().item(),
        "mismatch/k3": k3.mean().item(),
        "mismatch/effective_sample_share": share.item(),
    }


def sequence_means(values: torch.Tensor, owners: torch.Tensor, num_sequences: int) -> torch.Tensor:
    """Mean [S] of values [N] over the tokens of each sequence; `owners` [N] int64 says whose token
    each is. 0 for a sequence without tokens.
    """
    sums = torch.zeros(num_sequences, dtype=torch.float64, device=values.device)
    sums.index_add_(0, owners, values.double())
    counts = torch.bincount(owners, minlength=num_sequences)
    return sums / counts.clamp(min=1)


def tokens_to_keep(
    log_ratios: torch.Tensor, owners: torch.Tensor, num_sequences: int, max_ratio: float
) -> torch.Tensor:
    """Mask [N]: False for all tokens of a sequence whose geometric mean of trainer/sampler ratios,
    exp(mean d), is outside [1 / max_ratio, max_ratio].

    The geometric mean (as in GSPO, arXiv 2507.18071), not the product, which leaves any interval as
    completions grow longer, whatever the sampler.
    """
    means = sequence_means(log_ratios, owners, num_sequences)
    limit = torch.tensor(max_ratio, dtype=torch.float64).log()
    return (means.abs() <= limit.to(means.device))[owners]
