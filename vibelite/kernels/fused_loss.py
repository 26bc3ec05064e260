"""The head and a per-token loss in one pass: logits are computed once, 6 N H V instead of 8.

Possible because the loss of a token depends on that token's log-prob and entropy alone, so its
gradient is known as soon as the row's statistics are. Losses that mix tokens non-linearly (sequence
ratios, normalisation by something learned) cannot be computed so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from vibelite.kernels.head_call import Gradients, HeadCall, NeedsGrad, Statistics

# (log-probs [n], entropies [n], which of the N rows they are) -> loss per token [n].
PerTokenLoss = Callable[[torch.Tensor, torch.Tensor, slice], torch.Tensor]
# Summed loss, statistics of all rows, gradients of that sum.
LossAndGradients = Callable[
    [HeadCall, PerTokenLoss, NeedsGrad], tuple[torch.Tensor, Statistics, Gradients]
]


class TokenLoss(NamedTuple):
    """The summed loss (scalar, differentiable once), detached log-probs and entropies [N]."""

    loss: torch.Tensor
    logprobs: torch.Tensor
    entropy: torch.Tensor


def fused_loss(
    call: HeadCall, per_token_loss: PerTokenLoss, compute: LossAndGradients
) -> TokenLoss:
    """Runs the head and the loss; gradients are ready when it returns, `backward` scales them."""
    tensors = (call.hidden, call.weight, call.bias)
    return TokenLoss(*_FusedLoss.apply(*tensors, call, per_token_loss, compute))


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        call: HeadCall,
        per_token_loss: PerTokenLoss,
        compute: LossAndGradients,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        needs_grad = NeedsGrad(*ctx.needs_input_grad[:3])
        loss, statistics, ctx.gradients = compute(call, per_token_loss, needs_grad)
        ctx.mark_non_differentiable(statistics.logprobs, statistics.entropy)
        return loss, statistics.logprobs, statistics.entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_loss: torch.Tensor, *_: object) -> tuple[torch.Tensor | None, ...]:
        gradients: Gradients | None = ctx.gradients
        if gradients is None:
            raise RuntimeError("the one-pass loss keeps no graph: backward can run once only")
        ctx.gradients = None
        tensors = (gradients.hidden, gradients.weight, gradients.bias)
        scaled = [None if tensor is None else tensor.mul_(grad_loss) for tensor in tensors]
        return *scaled, None, None, None


def loss_and_upstream(
    per_token_loss: PerTokenLoss, statistics: Statistics, rows: slice
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Summed loss of the n rows `rows`, whose statistics are given, and its gradients [n] with
    respect to their log-probs and entropies.
    """
    with torch.enable_grad():
        logprobs = statistics.logprobs.detach().requires_grad_()
        entropy = statistics.entropy.detach().requires_grad_()
        losses = per_token_loss(logprobs, entropy, rows)
        if losses.shape != logprobs.shape:
            raise ValueError(
                f"per_token_loss must return one loss per row, {list(logprobs.shape)}; "
                f"got {list(losses.shape)}"
            )
        loss = losses.sum()
        upstream: tuple[torch.Tensor | None, ...] = (None, None)
        if loss.requires_grad:
            upstream = torch.autograd.grad(loss, (logprobs, entropy), allow_unused=True)
    grad_logprobs, grad_entropy = (
        torch.zeros_like(statistics.logprobs) if gradient is None else gradient
        for gradient in upstream
    )
    return loss.detach(), (grad_logprobs, grad_entropy)


def add_product(
    out: torch.Tensor, left: torch.Tensor, right: torch.Tensor, scale: float = 1.0
) -> None:
    """out += scale left @ right, accumulated in out's dtype."""
    if left.dtype == out.dtype or not out.is_cuda:
        out.addmm_(left.to(out.dtype), right.to(out.dtype), alpha=scale)
    else:
        torch.addmm(out, left, right, out_dtype=out.dtype, alpha=scale, out=out)
