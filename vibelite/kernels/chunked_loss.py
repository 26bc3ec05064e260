"""The one-pass loss in plain torch: whole rows of logits, a few at a time, become dz in place."""

from __future__ import annotations

import torch

from vibelite.kernels import chunked
from vibelite.kernels.chunked import MASKED, add_product, blocks, operand
from vibelite.kernels.fused_loss import PerTokenLoss, loss_and_upstream, loss_in_two_passes
from vibelite.kernels.problem import Gradients, Problem, Statistics, Wanted

# Elements of the rows of logits kept at a time, and of the blocks they are worked on in.
ROW_ELEMENTS = {"cpu": 8 << 20, "cuda": 1 << 28}
BLOCK_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 28}


def loss_and_gradients(
    problem: Problem, per_token_loss: PerTokenLoss, wanted: Wanted
) -> tuple[torch.Tensor, Statistics, Gradients]:
    """Summed loss, statistics [N], gradients of that sum.

    The weight's gradient is summed in the statistics' dtype: for 16-bit weights that is a float32
    [V, H] buffer, which the recomputing operator does without.
    """
    if not (wanted.hidden or wanted.weight or wanted.bias):
        return loss_in_two_passes(chunked, problem, per_token_loss, wanted)
    hidden, dtype, device = problem.hidden, problem.statistics_dtype, problem.hidden.device
    num, vocab = problem.num_tokens, problem.vocab_size
    loss = torch.zeros((), dtype=dtype, device=device)
    outputs = Statistics(*(hidden.new_zeros(num, dtype=dtype) for _ in range(3)))
    sums = Gradients(
        hidden.new_zeros(hidden.shape, dtype=dtype) if wanted.hidden else None,
        hidden.new_zeros(problem.weight.shape, dtype=dtype) if wanted.weight else None,
        hidden.new_zeros(vocab, dtype=dtype) if wanted.bias else None,
    )
    step = min(
        max(num, 1), max(ROW_ELEMENTS["cpu" if device.type == "cpu" else "cuda"] // vocab, 1)
    )
    for rows in blocks(num, step):
        part = problem.select(rows)
        z = row_logits(part)  # [n, V]
        statistics = row_statistics(part, z)
        part_loss, upstream = loss_and_upstream(part, per_token_loss, statistics, rows)
        loss += part_loss
        for output, values in zip(_fields(outputs), _fields(statistics), strict=True):
            output[rows] = values
        _add_gradients(part, z, statistics, upstream, rows, sums)
    return loss, outputs, _in_dtypes(problem, sums)


def row_logits(part: Problem) -> torch.Tensor:
    """Scaled logits of whole rows, [n, V]; 16-bit weights are widened a block at a time."""
    vocab, dtype = part.vocab_size, part.statistics_dtype
    if part.weight.dtype == dtype:
        return chunked.tile_logits(part, part.weight, slice(0, vocab))
    z = part.hidden.new_empty((part.num_tokens, vocab), dtype=dtype)
    for columns in blocks(vocab, _block_columns(part)):
        z[:, columns] = chunked.tile_logits(part, operand(part, part.weight[columns]), columns)
    return z


def row_statistics(part: Problem, z: torch.Tensor) -> Statistics:
    """Statistics of rows whose scaled logits [n, V] are at hand; z is left as it is."""
    num = part.num_tokens
    largest, total, weighted = z.new_full((num,), MASKED * 10), z.new_zeros(num), z.new_zeros(num)
    target_logit = z.new_full((num,), torch.nan)
    chunked.gather_targets(part, z, slice(0, part.vocab_size), out=target_logit)
    for columns in blocks(part.vocab_size, _block_columns(part)):
        block = z[:, columns].clone()
        if part.bias is not None:
            block.clamp_(min=MASKED)
        chunked.merge(block, largest, total, weighted)
    return chunked.finish(part, (largest, total, weighted), target_logit)


def _add_gradients(
    part: Problem,
    z: torch.Tensor,
    statistics: Statistics,
    upstream: tuple[torch.Tensor, torch.Tensor],
    rows: slice,
    sums: Gradients,
) -> None:
    """Adds the rows' gradients to `sums`; rows without upstream gradient cost nothing."""
    live = ((upstream[0] != 0) | (upstream[1] != 0)) & (part.targets != part.ignore_index)
    index = live.nonzero().squeeze(1)
    if len(index) < part.num_tokens:
        for position, row in enumerate(index.tolist()):
            if position < row:
                z[position] = z[row]
        z, part, statistics = z[: len(index)], part.select(index), statistics.select(index)
        upstream = upstream[0][index], upstream[1][index]
    hidden_sum = sums.hidden.new_zeros(part.hidden.shape) if sums.hidden is not None else None
    hidden = operand(part, part.hidden)
    whole = part.weight.dtype == part.statistics_dtype
    for columns in blocks(part.vocab_size, _block_columns(part)):
        chunked.to_gradient(z[:, columns], part, statistics, upstream, columns)
    for columns in blocks(part.vocab_size, part.vocab_size if whole else _block_columns(part)):
        dz = operand(part, z[:, columns])
        if hidden_sum is not None:
            add_product(hidden_sum, dz, operand(part, part.weight[columns]))
        if sums.weight is not None:
            add_product(sums.weight[columns], dz.T, hidden)
        if sums.bias is not None:
            sums.bias[columns] += z[:, columns].sum(0)
    if hidden_sum is not None and sums.hidden is not None:
        sums.hidden[rows].index_copy_(0, index, hidden_sum)


def _block_columns(part: Problem) -> int:
    budget = BLOCK_ELEMENTS["cpu" if part.hidden.device.type == "cpu" else "cuda"]
    return min(part.vocab_size, max(budget // max(part.num_tokens, 1), 1))


def _fields(statistics: Statistics) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return statistics.logprobs, statistics.entropy, statistics.logsumexp


def _in_dtypes(problem: Problem, sums: Gradients) -> Gradients:
    bias = problem.bias
    return Gradients(
        None if sums.hidden is None else sums.hidden.to(problem.hidden.dtype),
        None if sums.weight is None else sums.weight.to(problem.weight.dtype),
        None if sums.bias is None or bias is None else sums.bias.to(bias.dtype),
    )
