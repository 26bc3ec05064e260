"""The head and a per-token loss in one pass: logits are computed once, 6 N H V instead of 8.

Possible because the loss of a token depends on that token's log-prob and entropy alone, so its
gradient is known as soon as the row's statistics are. Losses that mix tokens non-linearly (sequence
ratios, normalisation by something learned) need `linear_logprobs`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from vibelite.kernels import active_columns
from vibelite.kernels.problem import Gradients, Problem, Statistics, Wanted

# (log-probs [n], entropies [n], which of the N rows they are) -> loss per token [n].
PerTokenLoss = Callable[[torch.Tensor, torch.Tensor, slice], torch.Tensor]
BACKENDS = {
    "chunked": "vibelite.kernels.chunked_loss",
    "triton": "vibelite.kernels.triton_loss",
}


class TokenLoss(NamedTuple):
    """The summed loss (scalar, differentiable once), detached log-probs and entropies [N]."""

    loss: torch.Tensor
    logprobs: torch.Tensor
    entropy: torch.Tensor


def fused_loss(
    problem: Problem, per_token_loss: PerTokenLoss, impl: str, grad_tol: float | None = None
) -> TokenLoss:
    """Runs the head and the loss; gradients are ready when it returns, `backward` scales them."""
    outputs = _FusedLoss.apply(
        problem.hidden, problem.weight, problem.bias, problem, per_token_loss, impl, grad_tol
    )
    return TokenLoss(*outputs)


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        problem: Problem,
        per_token_loss: PerTokenLoss,
        impl: str,
        grad_tol: float | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        wanted = Wanted(*ctx.needs_input_grad[:3])
        backend = importlib.import_module(BACKENDS[impl])
        with torch.autocast(hidden.device.type, enabled=False):
            loss, statistics, ctx.gradients = backend.loss_and_gradients(
                problem, per_token_loss, wanted, grad_tol
            )
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
        return *scaled, None, None, None, None


def loss_and_upstream(
    problem: Problem, per_token_loss: PerTokenLoss, statistics: Statistics, rows: slice
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Summed loss of some rows and its gradients [n] with respect to log-probs and entropies.

    `problem` and `statistics` hold those rows only. Ignored rows count nothing.
    """
    ignored = problem.targets == problem.ignore_index
    with torch.enable_grad():
        logprobs = statistics.logprobs.detach().requires_grad_()
        entropy = statistics.entropy.detach().requires_grad_()
        losses = per_token_loss(logprobs, entropy, rows)
        if losses.shape != logprobs.shape:
            raise ValueError(
                f"per_token_loss must return one loss per row, {list(logprobs.shape)}; "
                f"got {list(losses.shape)}"
            )
        loss = losses.masked_fill(ignored, 0.0).sum()
        upstream: tuple[torch.Tensor | None, ...] = (None, None)
        if loss.requires_grad:
            upstream = torch.autograd.grad(loss, (logprobs, entropy), allow_unused=True)
    grad_logprobs, grad_entropy = (
        torch.zeros_like(statistics.logprobs) if gradient is None else gradient
        for gradient in upstream
    )
    return loss.detach(), (grad_logprobs, grad_entropy)


def loss_in_two_passes(
    backend: Any,
    problem: Problem,
    per_token_loss: PerTokenLoss,
    wanted: Wanted,
    grad_tol: float | None = None,
) -> tuple[torch.Tensor, Statistics, Gradients]:
    """The same result by the recomputing backward pass; without wanted gradients, forward only."""
    statistics = backend.forward(problem)
    rows = slice(0, problem.num_tokens)
    loss, upstream = loss_and_upstream(problem, per_token_loss, statistics, rows)
    if not (wanted.hidden or wanted.weight or wanted.bias):
        return loss, statistics, Gradients(None, None, None)
    if grad_tol is None:
        return loss, statistics, backend.backward(problem, statistics, *upstream, wanted)
    call = active_columns.Call(backend, problem, statistics, upstream)
    return loss, statistics, active_columns.backward(call, wanted, grad_tol)[0]
