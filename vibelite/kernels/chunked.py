"""The fused head in plain torch, on any device, in bounded memory.

Statistics alone are streamed over tiles of logits. The loss forms whole rows of logits, a few at a
time, which become dz (the gradient of the unscaled, uncapped logits) in place. Statistics, logits
and accumulators are float32 (float64 for float64 inputs) whatever the inputs' dtype.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from vibelite.kernels.fused_loss import PerTokenLoss, add_product, loss_and_upstream
from vibelite.kernels.head_call import Gradients, HeadCall, NeedsGrad, Statistics

# Elements of one logit tile; the forward pass holds two tiles. On a CPU small tiles stay in the
# cache; on a GPU they must fill the device.
TILE_ELEMENTS = {"cpu": 1 << 21, "cuda": 1 << 25}
ROWS_PER_TILE = {"cpu": 1024, "cuda": 8192}
# Where whole rows of logits are formed: elements kept at a time, and of the blocks they are worked
# on in.
ROW_ELEMENTS = {"cpu": 8 << 20, "cuda": 1 << 28}
BLOCK_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 28}
# A masked logit. Finite, so that p * (z - max) is 0 and not 0 * inf.
MASKED = -1e30


def forward(call: HeadCall) -> Statistics:
    """Statistics of every row, by streaming (max, sum, weighted sum) over vocabulary tiles.

    Per row m = max z, S = sum exp(z - m), U = sum exp(z - m) (z - m); two parts merge as S = c1 S1
    + c2 S2, U = c1 (U1 + (m1 - m) S1) + c2 (U2 + (m2 - m) S2), c = exp(part's m - m). Own
    derivation: shifting U by m keeps the entropy log S - U / S free of cancellation.
    """
    streamed = Streamed(call)
    row_step, column_step = tile_shape(call)
    for columns in blocks(call.vocab_size, column_step):
        weight = operand(call, call.weight[columns])
        for rows in blocks(call.num_tokens, row_step):
            part = call.select(rows)
            z = tile_logits(part, weight, columns)  # [n, c]
            streamed.pick_targets(part, z, columns, rows)
            streamed.fold(z, rows)
    return streamed.finish()


def loss_and_gradients(
    call: HeadCall, per_token_loss: PerTokenLoss, needs_grad: NeedsGrad
) -> tuple[torch.Tensor, Statistics, Gradients]:
    """Summed loss, statistics [N], gradients of that sum.

    The weight's gradient is summed in the statistics' dtype: for 16-bit weights that is a float32
    [V, H] buffer. Rows without an upstream gradient cost no backward products.
    """
    loss = call.hidden.new_zeros((), dtype=call.statistics_dtype)
    outputs = Statistics.empty(call)
    sums = GradientSums(call, needs_grad)
    for rows in blocks(call.num_tokens, rows_at_once(call)):
        part = call.select(rows)
        z = row_logits(part)  # [n, V]
        statistics = row_statistics(part, z)
        part_loss, upstream = loss_and_upstream(per_token_loss, statistics, rows)
        loss += part_loss
        outputs.write(rows, statistics)
        if needs_grad.any:
            live, part, dz = live_dz(part, z, statistics, upstream)
            sums.add(part, dz, rows.start + live)
            del dz
        del z  # before the next chunk's are made
    return loss, outputs, sums.finish()


class Streamed:
    """m, S and U [N] of `forward` under construction, and the targets' scaled logits [N]."""

    def __init__(self, call: HeadCall) -> None:
        size, dtype = (call.num_tokens,), call.statistics_dtype
        self._has_bias = call.bias is not None
        self._largest = call.hidden.new_full(size, MASKED * 10, dtype=dtype)
        self._total = call.hidden.new_zeros(size, dtype=dtype)
        self._weighted = call.hidden.new_zeros(size, dtype=dtype)
        self._target_logit = call.hidden.new_full(size, torch.nan, dtype=dtype)

    def pick_targets(self, part: HeadCall, z: torch.Tensor, columns: slice, rows: slice) -> None:
        """Notes the scaled logits z [n, c] of the targets that are among these columns."""
        index, inside = target_index(part, columns)
        picked, out = z.gather(1, index[:, None]).squeeze(1), self._target_logit[rows]
        torch.where(inside, picked, out, out=out)

    def fold(self, z: torch.Tensor, rows: slice) -> None:
        """Folds a tile of scaled logits [n, c], which it overwrites, into m, S and U."""
        if self._has_bias:
            z.clamp_(min=MASKED)
        largest, total, weighted = self._largest[rows], self._total[rows], self._weighted[rows]
        new_largest = torch.maximum(largest, z.amax(1))
        z -= new_largest[:, None]
        e = z.exp()
        shift = largest - new_largest
        scale = shift.exp()
        weighted.add_(shift * total).mul_(scale).add_(z.mul_(e).sum(1))
        total.mul_(scale).add_(e.sum(1))
        largest.copy_(new_largest)

    def finish(self) -> Statistics:
        """A row whose every column is masked has no distribution: NaN, as in torch."""
        log_total = self._total.log()
        log_total.masked_fill_(self._largest <= MASKED / 2, torch.nan)
        return Statistics(
            (self._target_logit - self._largest) - log_total,
            log_total - self._weighted / self._total,
            self._largest + log_total,
        )


class GradientSums:
    """Gradients under construction, fed dz of some rows at a time."""

    def __init__(self, call: HeadCall, needs_grad: NeedsGrad) -> None:
        hidden, weight, dtype = call.hidden, call.weight, call.statistics_dtype
        self._call = call
        self.hidden = hidden.new_zeros(hidden.shape, dtype=dtype) if needs_grad.hidden else None
        self.weight = hidden.new_zeros(weight.shape, dtype=dtype) if needs_grad.weight else None
        self.bias = hidden.new_zeros(call.vocab_size, dtype=dtype) if needs_grad.bias else None

    def add(self, part: HeadCall, dz: torch.Tensor, rows: torch.Tensor) -> None:
        """Adds the gradients of dz [n, V] of the rows [n] of the whole call in `part`."""
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

    def finish(self) -> Gradients:
        """The gradients in their tensors' dtypes."""
        return Gradients(self.hidden, self.weight, self.bias).like(self._call)


def row_statistics(part: HeadCall, z: torch.Tensor) -> Statistics:
    """Statistics of rows whose scaled logits [n, V] are at hand; z is left as it is."""
    streamed, rows = Streamed(part), slice(0, part.num_tokens)
    streamed.pick_targets(part, z, slice(0, part.vocab_size), rows)
    for columns in blocks(part.vocab_size, block_columns(part)):
        streamed.fold(z[:, columns].clone(), rows)
    return streamed.finish()


def live_dz(
    part: HeadCall,
    z: torch.Tensor,
    statistics: Statistics,
    upstream: tuple[torch.Tensor, torch.Tensor],
) -> tuple[torch.Tensor, HeadCall, torch.Tensor]:
    """Rows with an upstream gradient (index [m]), their call and their dz [m, V]; z [n, V] is
    overwritten.
    """
    index = ((upstream[0] != 0) | (upstream[1] != 0)).nonzero().squeeze(1)
    if len(index) < part.num_tokens:
        for position, row in enumerate(index.tolist()):
            if position < row:
                z[position] = z[row]
        z, part, statistics = z[: len(index)], part.select(index), statistics.select(index)
        upstream = upstream[0][index], upstream[1][index]
    for columns in blocks(part.vocab_size, block_columns(part)):
        to_gradient(z[:, columns], part, statistics, upstream, columns)
    return index, part, z


def rows_at_once(call: HeadCall) -> int:
    """How many whole rows of logits exist at a time."""
    budget = ROW_ELEMENTS["cpu" if call.hidden.device.type == "cpu" else "cuda"]
    return min(max(call.num_tokens, 1), max(budget // call.vocab_size, 1))


def block_columns(part: HeadCall) -> int:
    """Columns of the blocks in which whole rows are worked on."""
    budget = BLOCK_ELEMENTS["cpu" if part.hidden.device.type == "cpu" else "cuda"]
    return min(part.vocab_size, max(budget // max(part.num_tokens, 1), 1))


def row_logits(part: HeadCall) -> torch.Tensor:
    """Scaled logits of whole rows, [n, V]; 16-bit weights are widened a block at a time."""
    vocab, dtype = part.vocab_size, part.statistics_dtype
    if part.weight.dtype == dtype:
        return tile_logits(part, part.weight, slice(0, vocab))
    z = part.hidden.new_empty((part.num_tokens, vocab), dtype=dtype)
    for columns in blocks(vocab, block_columns(part)):
        z[:, columns] = tile_logits(part, operand(part, part.weight[columns]), columns)
    return z


def tile_shape(call: HeadCall) -> tuple[int, int]:
    """Rows and columns of a logit tile: everything if it fits, else at most TILE_ELEMENTS."""
    num, vocab = max(call.num_tokens, 1), call.vocab_size
    on_cpu = call.hidden.device.type == "cpu"
    budget = TILE_ELEMENTS["cpu" if on_cpu else "cuda"]
    if num * vocab <= budget:
        return num, vocab
    rows = min(num, ROWS_PER_TILE["cpu" if on_cpu else "cuda"])
    return rows, min(vocab, budget // rows)


def blocks(size: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


def operand(call: HeadCall, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as matrix products take it: on a CPU, whose 16-bit products round their result, in
    the statistics' dtype.
    """
    return tensor.to(call.statistics_dtype if tensor.device.type == "cpu" else call.hidden.dtype)


def product(left: torch.Tensor, right: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """left @ right, accumulated and returned in `dtype`."""
    if left.dtype == dtype:
        return left @ right
    return torch.mm(left, right, out_dtype=dtype)


def tile_logits(part: HeadCall, weight: torch.Tensor, columns: slice) -> torch.Tensor:
    """Scaled logits softcap(h W^T + b) / temperature of some rows and columns, [n, c]."""
    z = product(operand(part, part.hidden), weight.T, part.statistics_dtype)
    if part.bias is not None:
        z += part.bias[columns].to(z.dtype)
    if part.softcap is not None:
        z.div_(part.softcap).tanh_().mul_(part.softcap)
    if part.temperature != 1.0:
        z *= 1 / part.temperature
    return z


def target_index(part: HeadCall, columns: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Targets [n] relative to the columns, clamped into them, and which of them lie inside."""
    index = part.targets.long() - columns.start
    inside = (index >= 0) & (index < columns.stop - columns.start)
    return index.clamp_(0, columns.stop - columns.start - 1), inside


def to_gradient(
    z: torch.Tensor,
    part: HeadCall,
    statistics: Statistics,
    upstream: Sequence[torch.Tensor],
    columns: slice,
) -> None:
    """Overwrites scaled logits [n, c] with the gradient of the unscaled, uncapped logits.

    With log-probs l_v, entropy E, upstream a (log-prob) and b (entropy): dr_v = ((a (1[v = y] -
    p_v) - b p_v (l_v + E)) / temperature. At the target 1 - p_y is -expm1(l_y), exact as p_y -> 1.
    """
    inverse = 1 / part.temperature
    a, b = upstream[0][:, None] * inverse, upstream[1][:, None] * inverse
    entropy = statistics.entropy[:, None]
    slope = None
    if part.softcap is not None:
        slope = 1 - (z / (inverse * part.softcap)).square_()
    z -= statistics.logsumexp[:, None]
    if part.bias is not None:
        z.clamp_(min=MASKED)
    p = z.exp()
    # A GPU is not made to wait for the answer.
    if upstream[1].device.type != "cpu" or bool(upstream[1].any()):
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
