"""The definition of the fused head: all logits at once, autograd for the gradients.

The only place in the package where a full-vocabulary softmax is formed. Slow and large on purpose.
"""

from __future__ import annotations

import torch

from vibelite.kernels.problem import Problem


def linear_logprobs(problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs and entropies, each [N] in nats, float32 (float64 for float64 inputs).

    s = softcap(h W^T + b) / temperature, log-prob = s_y - logsumexp(s), entropy = -sum p log p with
    0 log 0 = 0. Differentiable any number of times.
    """
    dtype = problem.statistics_dtype
    logits = problem.hidden.to(dtype) @ problem.weight.to(dtype).T  # [N, V]
    if problem.bias is not None:
        logits = logits + problem.bias.to(dtype)
    if problem.softcap is not None:
        logits = problem.softcap * torch.tanh(logits / problem.softcap)
    log_p = torch.log_softmax(logits * problem.inverse_temperature(), dim=-1)
    finite_log_p = log_p.masked_fill(log_p.isneginf(), 0.0)
    entropy = -(log_p.exp() * finite_log_p).sum(-1)
    ignored = problem.targets == problem.ignore_index
    index = problem.targets.long().masked_fill(ignored, 0)[:, None]
    logprobs = log_p.gather(1, index).squeeze(1)
    zero = torch.zeros((), dtype=dtype, device=log_p.device)
    return torch.where(ignored, zero, logprobs), torch.where(ignored, zero, entropy)
