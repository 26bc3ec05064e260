"""The fused head in plain torch, on any device: logits exist one tile at a time.

Forward 2 N H V multiply-adds, backward 6 N H V (it recomputes the logits), workspace a constant.
Statistics, logits and accumulators are float32 (float64 for float64 inputs) whatever the inputs'
dtype. No autograd here: `operators` binds these functions to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from vibelite.kernels.problem import Gradients, Problem, Statistics, Wanted

# Elements of one logit tile; the forward pass holds two tiles, the backward pass three. On a CPU
# small tiles stay in the cache; on a GPU they must fill the device.
TILE_ELEMENTS = {"cpu": 1 << 21, "cuda": 1 << 25}
ROWS_PER_TILE = {"cpu": 1024, "cuda": 8192}
# Where whole rows of logits are formed: elements kept at a time, and of the blocks they are worked
# on in.
ROW_ELEMENTS = {"cpu": 8 << 20, "cuda": 1 << 28}
BLOCK_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 28}
# A masked logit. Finite, so that p * (z - max) is 0 and not 0 * inf.
MASKED = -1e30


def forward(problem: Problem) -> Statistics:
    """Statistics of every row, by streaming (max, sum, weighted sum) over vocabulary tiles.

    Per row m = max z, S = sum exp(z - m), U = sum exp(z - m) (z - m); two parts merge as S = c1 S1
    + c2 S2, U = c1 (U1 + (m1 - m) S1) + c2 (U2 + (m2 - m) S2), c = exp(part's m - m). Shifting U by
    m keeps the entropy log S - U / S free of cancellation for logits of any size. Own derivation.
    """
    live = problem.targets != problem.ignore_index
    if problem.hidden.device.type == "cpu" and not bool(live.all()):
        return _forward_live(problem, live.nonzero().squeeze(1))
    dtype, device, num = problem.statistics_dtype, problem.hidden.device, problem.num_tokens
    largest = torch.full((num,), MASKED * 10, dtype=dtype, device=device)
    total = torch.zeros(num, dtype=dtype, device=device)
    weighted = torch.zeros(num, dtype=dtype, device=device)
    target_logit = torch.full((num,), torch.nan, dtype=dtype, device=device)
    row_step, column_step = tile_shape(problem)
    for columns in blocks(problem.vocab_size, column_step):
        weight = operand(problem, problem.weight[columns])
        for rows in blocks(num, row_step):
            part = problem.select(rows)
            z = tile_logits(part, weight, columns)  # [n, c]
            gather_targets(part, z, columns, out=target_logit[rows])
            if problem.bias is not None:
                z.clamp_(min=MASKED)
            merge(z, largest[rows], total[rows], weighted[rows])
    return finish(problem, (largest, total, weighted), target_logit)


def _forward_live(problem: Problem, rows: torch.Tensor) -> Statistics:
    """Statistics where only `rows` [n] have a target; the others are 0."""
    if len(rows) == 0:
        zeros = problem.hidden.new_zeros(problem.num_tokens, dtype=problem.statistics_dtype)
        return Statistics(zeros, zeros.clone(), zeros.clone())
    live = forward(problem.select(rows))
    outputs = []
    for values in (live.logprobs, live.entropy, live.logsumexp):
        outputs.append(values.new_zeros(problem.num_tokens).index_copy_(0, rows, values))
    return Statistics(*outputs)


def backward(
    problem: Problem,
    statistics: Statistics,
    grad_logprobs: torch.Tensor,
    grad_entropy: torch.Tensor,
    wanted: Wanted,
    weight_grad_out: torch.Tensor | None = None,
) -> Gradients:
    """Gradients for upstream gradients [N] of log-probs and entropies.

    Rows whose two upstream gradients are 0, or that are ignored, are dropped first. The vocabulary
    is the outer loop, so a block of the weight's gradient is summed over all tokens in the
    accumulator's dtype and rounded once. `weight_grad_out` [V, H] is added to instead of returning
    a gradient.
    """
    live = (grad_logprobs != 0) | (grad_entropy != 0)
    live &= problem.targets != problem.ignore_index
    rows = live.nonzero().squeeze(1)
    part, upstream = problem, (grad_logprobs, grad_entropy)
    if len(rows) < problem.num_tokens:
        part, statistics = problem.select(rows), statistics.select(rows)
        upstream = grad_logprobs[rows], grad_entropy[rows]
    compact = _backward_live(part, statistics, upstream, wanted, weight_grad_out)
    if compact.hidden is None or len(rows) == problem.num_tokens:
        return compact
    full = torch.zeros_like(problem.hidden, memory_format=torch.contiguous_format)
    return replace(compact, hidden=full.index_copy_(0, rows, compact.hidden))


def _backward_live(
    problem: Problem,
    statistics: Statistics,
    upstream: tuple[torch.Tensor, torch.Tensor],
    wanted: Wanted,
    weight_grad_out: torch.Tensor | None,
) -> Gradients:
    hidden, dtype = problem.hidden, problem.statistics_dtype
    grad_hidden = hidden.new_zeros(hidden.shape, dtype=dtype) if wanted.hidden else None
    grad_weight = weight_grad_out
    if wanted.weight and weight_grad_out is None:
        grad_weight = torch.zeros_like(problem.weight, memory_format=torch.contiguous_format)
    grad_bias = hidden.new_zeros(problem.vocab_size, dtype=dtype) if wanted.bias else None
    row_step, column_step = tile_shape(problem)
    for columns in blocks(problem.vocab_size, column_step):
        weight = operand(problem, problem.weight[columns])
        block = torch.zeros_like(weight, dtype=dtype) if wanted.weight else None  # [c, H]
        for rows in blocks(problem.num_tokens, row_step):
            part = problem.select(rows)
            dz = tile_logits(part, weight, columns)
            to_gradient(dz, part, statistics.select(rows), [g[rows] for g in upstream], columns)
            if grad_bias is not None:
                grad_bias[columns] += dz.sum(0)
            dz = operand(problem, dz)
            if grad_hidden is not None:
                add_product(grad_hidden[rows], dz, weight)
            if block is not None:
                add_product(block, dz.T, operand(problem, part.hidden))
        if block is not None:
            assert grad_weight is not None
            grad_weight[columns] += block.to(grad_weight.dtype)
    return Gradients(
        None if grad_hidden is None else grad_hidden.to(hidden.dtype),
        None if weight_grad_out is not None else grad_weight,
        None if grad_bias is None or problem.bias is None else grad_bias.to(problem.bias.dtype),
    )


def rows_at_once(problem: Problem) -> int:
    """How many whole rows of logits exist at a time."""
    budget = ROW_ELEMENTS["cpu" if problem.hidden.device.type == "cpu" else "cuda"]
    return min(max(problem.num_tokens, 1), max(budget // problem.vocab_size, 1))


def block_columns(part: Problem) -> int:
    """Columns of the blocks in which whole rows are worked on."""
    budget = BLOCK_ELEMENTS["cpu" if part.hidden.device.type == "cpu" else "cuda"]
    return min(part.vocab_size, max(budget // max(part.num_tokens, 1), 1))


def row_logits(part: Problem) -> torch.Tensor:
    """Scaled logits of whole rows, [n, V]; 16-bit weights are widened a block at a time."""
    vocab, dtype = part.vocab_size, part.statistics_dtype
    if part.weight.dtype == dtype:
        return tile_logits(part, part.weight, slice(0, vocab))
    z = part.hidden.new_empty((part.num_tokens, vocab), dtype=dtype)
    for columns in blocks(vocab, block_columns(part)):
        z[:, columns] = tile_logits(part, operand(part, part.weight[columns]), columns)
    return z


def dz_of_rows(
    part: Problem, statistics: Statistics, upstream: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, None]:
    """Gradient of the unscaled logits of whole rows, [n, V], and that it is not rescaled."""
    z = row_logits(part)
    for columns in blocks(part.vocab_size, block_columns(part)):
        to_gradient(z[:, columns], part, statistics, upstream, columns)
    return z, None


def tile_shape(problem: Problem) -> tuple[int, int]:
    """Rows and columns of a logit tile: everything if it fits, else at most TILE_ELEMENTS."""
    num, vocab = max(problem.num_tokens, 1), problem.vocab_size
    on_cpu = problem.hidden.device.type == "cpu"
    budget = TILE_ELEMENTS["cpu" if on_cpu else "cuda"]
    if num * vocab <= budget:
        return num, vocab
    rows = min(num, ROWS_PER_TILE["cpu" if on_cpu else "cuda"])
    return rows, min(vocab, budget // rows)


def blocks(size: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


def operand(problem: Problem, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as the matrix products take it: in the statistics' dtype on a CPU, whose low
    precision products round their result, else in the inputs' dtype.
    """
    return tensor.to(
        problem.statistics_dtype if tensor.device.type == "cpu" else problem.hidden.dtype
    )


def product(left: torch.Tensor, right: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """left @ right, accumulated and returned in `dtype`."""
    if left.dtype == dtype:
        return left @ right
    return torch.mm(left, right, out_dtype=dtype)


def add_product(out: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """out += left @ right in out's dtype."""
    if left.dtype == out.dtype:
        out.addmm_(left, right)
    else:
        out += torch.mm(left, right, out_dtype=out.dtype)


def tile_logits(part: Problem, weight: torch.Tensor, columns: slice) -> torch.Tensor:
    """Scaled logits softcap(h W^T + b) / temperature of some rows and columns, [n, c]."""
    z = product(operand(part, part.hidden), weight.T, part.statistics_dtype)
    if part.bias is not None:
        z += part.bias[columns].to(z.dtype)
    if part.softcap is not None:
        z.div_(part.softcap).tanh_().mul_(part.softcap)
    if part.row_temperature is not None or part.temperature != 1.0:
        z *= part.inverse_temperature()
    return z


def gather_targets(part: Problem, z: torch.Tensor, columns: slice, *, out: torch.Tensor) -> None:
    """Writes z at each row's target into `out` [n] where the target is among the columns."""
    index, inside = target_index(part, columns)
    picked = z.gather(1, index[:, None]).squeeze(1)
    torch.where(inside, picked, out, out=out)


def target_index(part: Problem, columns: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Targets [n] relative to the columns, clamped into them, and which of them lie inside."""
    index = part.targets.long() - columns.start
    inside = (index >= 0) & (index < columns.stop - columns.start)
    return index.clamp_(0, columns.stop - columns.start - 1), inside


def merge(
    z: torch.Tensor, largest: torch.Tensor, total: torch.Tensor, weighted: torch.Tensor
) -> None:
    """Folds a tile of scaled logits [n, c], which it overwrites, into m, S and U [n]."""
    new_largest = torch.maximum(largest, z.amax(1))
    z -= new_largest[:, None]
    e = z.exp()
    shift = largest - new_largest
    scale = shift.exp()
    weighted.add_(shift * total).mul_(scale).add_(row_dots(e, z))
    total.mul_(scale).add_(e.sum(1))
    largest.copy_(new_largest)


def row_dots(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """sum_c left[:, c] right[:, c], [n]; overwrites `right`."""
    return right.mul_(left).sum(1)


def finish(
    problem: Problem,
    streamed: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    target_logit: torch.Tensor,
) -> Statistics:
    """Statistics from m, S, U and the target's scaled logit, each [N]; 0 in ignored rows.

    A row whose every column is masked has no distribution: NaN, as in torch.
    """
    largest, total, weighted = streamed
    log_total = total.log()
    log_total.masked_fill_(largest <= MASKED / 2, torch.nan)
    logprobs = (target_logit - largest) - log_total
    entropy = log_total - weighted / total
    ignored = problem.targets == problem.ignore_index
    return Statistics(
        logprobs.masked_fill_(ignored, 0.0),
        entropy.masked_fill_(ignored, 0.0),
        largest + log_total,
    )


def to_gradient(
    z: torch.Tensor,
    part: Problem,
    statistics: Statistics,
    upstream: Sequence[torch.Tensor],
    columns: slice,
) -> None:
    """Overwrites scaled logits [n, c] with the gradient of the unscaled, uncapped logits.

    With log-probs l_v, entropy E, upstream a (log-prob) and b (entropy): dr_v = ((a (1[v = y] -
    p_v) - b p_v (l_v + E)) / temperature. At the target 1 - p_y is -expm1(l_y), exact as p_y -> 1.
    """
    inverse = part.inverse_temperature()  # [n, 1]
    a, b = upstream[0][:, None] * inverse, upstream[1][:, None] * inverse
    entropy = statistics.entropy[:, None]
    slope = None
    if part.softcap is not None:
        slope = 1 - (z / (inverse * part.softcap)).square_()
    z -= statistics.logsumexp[:, None]
    if part.bias is not None:
        z.clamp_(min=MASKED)
    p = z.exp()
    if bool_any(upstream[1]):
        z.mul_(-b).sub_(a + b * entropy).mul_(p)
    else:
        torch.mul(p, -a, out=z)
    index, inside = target_index(part, columns)
    log_p = statistics.logprobs[:, None]
    at_target = -a * torch.expm1(log_p)
    at_target -= b * torch.where(log_p.isneginf(), 0.0, log_p.exp() * (log_p + entropy))
    index = index[:, None]
    z.scatter_(1, index, torch.where(inside[:, None], at_target, z.gather(1, index)))
    if slope is not None:
        z *= slope


def bool_any(values: torch.Tensor) -> bool:
    return values.device.type != "cpu" or bool(values.any())
