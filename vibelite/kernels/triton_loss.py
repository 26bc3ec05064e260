"""The one-pass loss on NVIDIA GPUs: exp(z) is stored once as bf16 and turned into dz in place."""

from __future__ import annotations

from dataclasses import replace

import torch

from vibelite.kernels import triton_linear_logprobs
from vibelite.kernels.active_columns import ActiveSums, Call
from vibelite.kernels.fused_loss import PerTokenLoss, loss_and_upstream, loss_in_two_passes
from vibelite.kernels.problem import Gradients, Problem, Statistics, Wanted
from vibelite.kernels.triton_launch import (
    ceil_divide,
    launch_exp,
    launch_exp_to_dz,
    merge,
    row_constants,
)
from vibelite.kernels.triton_linear_logprobs import GradientSums, row_major, rows_at_once

# Bytes of stored exponentials: one chunk of 8192 rows at V = 151936 is 2.3 GiB. More rows than fit
# are done in chunks, at the price of a float32 [V, H] sum for the weight's gradient.
STORE_BYTES = 5 << 29


def loss_and_gradients(
    problem: Problem,
    per_token_loss: PerTokenLoss,
    wanted: Wanted,
    grad_tol: float | None = None,
) -> tuple[torch.Tensor, Statistics, Gradients]:
    """Summed loss, statistics [N] float32, gradients of that sum: exact, or within `grad_tol`.

    Only bf16 has the range to store exp(z) without loss; other dtypes take the recomputing path.
    Unlike there, rows without upstream gradient cost the same as the others.
    """
    needs_gradients = wanted.hidden or wanted.weight or wanted.bias
    if not needs_gradients or problem.hidden.dtype != torch.bfloat16 or problem.num_tokens == 0:
        return loss_in_two_passes(triton_linear_logprobs, problem, per_token_loss, wanted, grad_tol)
    problem = row_major(problem)
    num, vocab, hidden = problem.num_tokens, problem.vocab_size, problem.hidden
    width = ceil_divide(vocab, 256) * 256
    active, step = None, _rows_at_once(problem)
    if grad_tol is not None:
        step = rows_at_once(problem)  # fewer: the fewer rows, the fewer columns matter to them
        active = ActiveSums(problem, wanted, grad_tol, num_chunks=ceil_divide(num, step))
    outputs = Statistics(*(hidden.new_empty(num, dtype=torch.float32) for _ in range(3)))
    loss = hidden.new_zeros((), dtype=torch.float32)
    upstreams = hidden.new_empty((2, num), dtype=torch.float32)
    weight_sum = None
    if wanted.weight and step < num and active is None:
        weight_sum = hidden.new_zeros(problem.weight.shape, dtype=torch.float32)
    exps = hidden.new_empty((min(step, num), width))
    parts: list[Gradients] = []
    for start in range(0, num, step):
        rows = slice(start, min(start + step, num))
        part, statistics = problem.select(rows), outputs.select(rows)
        part_exps = exps[: part.num_tokens]
        partial = launch_exp(part, part_exps)
        merge(part, partial, [statistics.logprobs, statistics.entropy, statistics.logsumexp])
        part_loss, upstream = loss_and_upstream(part, per_token_loss, statistics, rows)
        loss += part_loss
        constants, _ = row_constants(part, statistics, upstream)
        launch_exp_to_dz(part, constants, partial, part_exps)
        if active is not None:
            upstreams[0, rows], upstreams[1, rows] = upstream
            index = torch.arange(rows.start, rows.stop, device=hidden.device)
            active.add(part, part_exps[:, :vocab], index)
            continue
        sums = GradientSums(part, wanted, weight_sum, None)
        sums.add(part_exps[:, :vocab], slice(0, vocab))
        parts.append(sums.finish())
    if active is not None:
        call = Call(triton_linear_logprobs, problem, outputs, (upstreams[0], upstreams[1]))
        return loss, outputs, active.finish(call)
    return loss, outputs, _join(problem, parts, weight_sum)


def _rows_at_once(problem: Problem) -> int:
    """Rows of one chunk: a multiple of 128, chunks of about equal size within STORE_BYTES."""
    width = ceil_divide(problem.vocab_size, 256) * 256
    num_chunks = ceil_divide(problem.num_tokens * width * 2, STORE_BYTES)
    return ceil_divide(ceil_divide(problem.num_tokens, num_chunks), 128) * 128


def _join(problem: Problem, parts: list[Gradients], weight_sum: torch.Tensor | None) -> Gradients:
    """One set of gradients from those of consecutive chunks of rows."""
    if len(parts) == 1:
        return parts[0]
    hiddens = [part.hidden for part in parts if part.hidden is not None]
    biases = [part.bias for part in parts if part.bias is not None]
    return replace(
        parts[0],
        hidden=torch.cat(hiddens) if hiddens else None,
        weight=None if weight_sum is None else weight_sum.to(problem.weight.dtype),
        bias=torch.stack(biases).sum(0) if biases else None,
    )
