"""The one-pass loss in plain torch: whole rows of logits, a few at a time, become dz in place."""

from __future__ import annotations

import torch

from vibelite.kernels import chunked
from vibelite.kernels.active_columns import ActiveSums, Call
from vibelite.kernels.chunked import (
    MASKED,
    add_product,
    block_columns,
    blocks,
    operand,
    row_logits,
    rows_at_once,
)
from vibelite.kernels.fused_loss import PerTokenLoss, loss_and_upstream, loss_in_two_passes
from vibelite.kernels.problem import Gradients, Problem, Statistics, Wanted


def loss_and_gradients(
    problem: Problem,
    per_token_loss: PerTokenLoss,
    wanted: Wanted,
    grad_tol: float | None = None,
) -> tuple[torch.Tensor, Statistics, Gradients]:
    """Summed loss, statistics [N], gradients of that sum: exact, or within `grad_tol`.

    The weight's gradient is summed in the statistics' dtype: for 16-bit weights that is a float32
    [V, H] buffer, which the recomputing operator does without.
    """
    if not (wanted.hidden or wanted.weight or wanted.bias):
        return loss_in_two_passes(chunked, problem, per_token_loss, wanted)
    hidden, dtype, num = problem.hidden, problem.statistics_dtype, problem.num_tokens
    loss = hidden.new_zeros((), dtype=dtype)
    outputs = Statistics(*(hidden.new_zeros(num, dtype=dtype) for _ in range(3)))
    upstreams = hidden.new_zeros((2, num), dtype=dtype)
    step = rows_at_once(problem)
    if grad_tol is None:
        sums = ExactSums(problem, wanted)
    else:
        sums = ActiveSums(problem, wanted, grad_tol, num_chunks=-(-num // step))
    for rows in blocks(num, step):
        part = problem.select(rows)
        z = row_logits(part)  # [n, V]
        statistics = row_statistics(part, z)
        part_loss, upstream = loss_and_upstream(part, per_token_loss, statistics, rows)
        loss += part_loss
        for output, values in zip(_fields(outputs), _fields(statistics), strict=True):
            output[rows] = values
        upstreams[0, rows], upstreams[1, rows] = upstream
        live, part, dz = _live_dz(part, z, statistics, upstream)
        sums.add(part, dz, rows.start + live)
        del z, dz  # before the next chunk's are made
    return loss, outputs, sums.finish(Call(chunked, problem, outputs, (upstreams[0], upstreams[1])))


def row_statistics(part: Problem, z: torch.Tensor) -> Statistics:
    """Statistics of rows whose scaled logits [n, V] are at hand; z is left as it is."""
    num = part.num_tokens
    largest, total, weighted = z.new_full((num,), MASKED * 10), z.new_zeros(num), z.new_zeros(num)
    target_logit = z.new_full((num,), torch.nan)
    chunked.gather_targets(part, z, slice(0, part.vocab_size), out=target_logit)
    for columns in blocks(part.vocab_size, block_columns(part)):
        block = z[:, columns].clone()
        if part.bias is not None:
            block.clamp_(min=MASKED)
        chunked.merge(block, largest, total, weighted)
    return chunked.finish(part, (largest, total, weighted), target_logit)


def _live_dz(
    part: Problem,
    z: torch.Tensor,
    statistics: Statistics,
    upstream: tuple[torch.Tensor, torch.Tensor],
) -> tuple[torch.Tensor, Problem, torch.Tensor]:
    """Rows with an upstream gradient (index [m]), the problem of those rows, and their dz [m, V],
    for which z [n, V] is overwritten. The other rows cost nothing.
    """
    live = ((upstream[0] != 0) | (upstream[1] != 0)) & (part.targets != part.ignore_index)
    index = live.nonzero().squeeze(1)
    if len(index) < part.num_tokens:
        for position, row in enumerate(index.tolist()):
            if position < row:
                z[position] = z[row]
        z, part, statistics = z[: len(index)], part.select(index), statistics.select(index)
        upstream = upstream[0][index], upstream[1][index]
    for columns in blocks(part.vocab_size, block_columns(part)):
        chunked.to_gradient(z[:, columns], part, statistics, upstream, columns)
    return index, part, z


class ExactSums:
    """Gradients under construction, fed dz of some rows at a time; `ActiveSums` without a
    tolerance.
    """

    def __init__(self, problem: Problem, wanted: Wanted) -> None:
        hidden, weight, dtype = problem.hidden, problem.weight, problem.statistics_dtype
        self._problem = problem
        self.hidden = hidden.new_zeros(hidden.shape, dtype=dtype) if wanted.hidden else None
        self.weight = hidden.new_zeros(weight.shape, dtype=dtype) if wanted.weight else None
        self.bias = hidden.new_zeros(problem.vocab_size, dtype=dtype) if wanted.bias else None

    def add(self, part: Problem, dz: torch.Tensor, rows: torch.Tensor) -> None:
        """Adds the gradients of dz [n, V] of the rows [n] of the whole problem in `part`."""
        hidden_sum = self.hidden.new_zeros(part.hidden.shape) if self.hidden is not None else None
        hidden = operand(part, part.hidden)
        whole = part.weight.dtype == part.statistics_dtype
        for columns in blocks(part.vocab_size, part.vocab_size if whole else block_columns(part)):
            factor = operand(part, dz[:, columns])
            if hidden_sum is not None:
                add_product(hidden_sum, factor, operand(part, part.weight[columns]))
            if self.weight is not None:
                add_product(self.weight[columns], factor.T, hidden)
            if self.bias is not None:
                self.bias[columns] += dz[:, columns].sum(0)
        if hidden_sum is not None and self.hidden is not None:
            self.hidden.index_copy_(0, rows, hidden_sum)

    def finish(self, _: Call) -> Gradients:
        """The gradients in their tensors' dtypes."""
        problem, bias = self._problem, self._problem.bias
        return Gradients(
            None if self.hidden is None else self.hidden.to(problem.hidden.dtype),
            None if self.weight is None else self.weight.to(problem.weight.dtype),
            None if self.bias is None or bias is None else self.bias.to(bias.dtype),
        )


def _fields(statistics: Statistics) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return statistics.logprobs, statistics.entropy, statistics.logsumexp
