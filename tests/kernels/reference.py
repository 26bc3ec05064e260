"""The definition of the fused head: all logits at once, autograd for the gradients."""

from __future__ import annotations

import torch

from vibelite.kernels import HeadCall


def reference_logprobs(call: HeadCall) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs and entropies, each [N] in nats, float32 (float64 for float64 inputs).

    s = softcap(h W^T + b) / temperature, log-prob = s_y - logsumexp(s), entropy = -sum p log p with
    0 log 0 = 0. Differentiable any number of times.
    """
    dtype = call.statistics_dtype
    logits = call.hidden.to(dtype) @ call.weight.to(dtype).T  # [N, V]
    if call.bias is not None:
        logits = logits + call.bias.to(dtype)
    if call.softcap is not None:
        logits = call.softcap * torch.tanh(logits / call.softcap)
    log_p = torch.log_softmax(logits / call.temperature, dim=-1)
    finite_log_p = log_p.masked_fill(log_p.isneginf(), 0.0)
    entropy = -(log_p.exp() * finite_log_p).sum(-1)
    return log_p.gather(1, call.targets.long()[:, None]).squeeze(1), entropy
