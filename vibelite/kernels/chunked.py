"""The fused head in plain torch, on any device, in bounded memory.

Whole rows of logits are formed, a few at a time; of the loss they become dz (the gradient of the
unscaled, uncapped logits) in place. Statistics, logits and accumulators are float32 (float64 for
float64 inputs) whatever the inputs' dtype.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from vibelite.kernels.fused_loss import PerTokenLoss, add_product, loss_and_upstream
from vibelite.kernels.head_call import Gradients, HeadCall, NeedsGrad, Statistics

# Elements of the whole rows of logits that exist at a time, and of the blocks they are worked on
# in: on a CPU these stay in the cache; on a GPU they must fill the device.
ROW_ELEMENTS = {"cpu": 8 << 20, "cuda": 1 << 28}
BLOCK_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 28}
# A masked logit. Finite, so that p * (z - max) is 0 and not 0 * inf.
MASKED = -1e30


def forward(call: HeadCall) -> Statistics:
    """Statistics of every row."""
    outputs = Statistics.empty(call)
    for rows in blocks(call.num_tokens, rows_at_once(call)):
        part = call.select(rows)
        outputs.write(rows, row_statistics(part, row_logits(part)))
    return outputs


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
        scale = _scale_of(dz) if part.hidden.dtype == torch.float16 and dz.is_cuda else 1.0
        whole = part.weight.dtype == part.statistics_dtype
        for columns in blocks(part.vocab_size, part.vocab_size if whole else block_columns(part)):
            factor = operand(part, dz[:, columns] if scale == 1.0 else dz[:, columns] / scale)
            if hidden_sum is not None:
                add_product(hidden_sum, factor, operand(part, part.weight[columns]), scale)
            if self.weight is not None:
                add_product(self.weight[columns], factor.T, hidden, scale)
            if self.bias is not None:
                self.bias[columns] += dz[:, columns].sum(0)
        if hidden_sum is not None and self.hidden is not None:
            self.hidden.index_copy_(0, rows, hidden_sum)

    def finish(self) -> Gradients:
        """The gradients in their tensors' dtypes."""
        return Gradients(self.hidden, self.weight, self.bias).like(self._call)


def _scale_of(dz: torch.Tensor) -> float:
    """The power of two by which dz is divided to use the range that float16 has."""
    largest = max(abs(edge.item()) for edge in dz.aminmax()) if dz.numel() else 0.0
    return 2.0 ** math.ceil(math.log2(largest)) if 0 < largest < math.inf else 1.0


def row_statistics(part: HeadCall, z: torch.Tensor) -> Statistics:
    """Statistics of rows whose scaled logits [n, V] are at hand; z is left as it is.

    With m = max z, S = sum exp(z - m) and U = sum exp(z - m) (z - m) the entropy is log S - U / S:
    shifting U by m keeps it free of cancellation. A row whose every column is masked has no
    distribution: NaN, as in torch.
    """
    largest = z.amax(1)
    total, weighted = torch.zeros_like(largest), torch.zeros_like(largest)
    for columns in blocks(part.vocab_size, block_columns(part)):
        shifted = z[:, columns] - largest[:, None]
        if part.bias is not None:
            shifted.clamp_(min=MASKED)
        e = shifted.exp()
        total += e.sum(1)
        weighted += shifted.mul_(e).sum(1)
    index, inside = target_index(part)
    target_logit = z.gather(1, index[:, None]).squeeze(1).masked_fill_(~inside, torch.nan)
    log_total = total.log()
    return Statistics(
        (target_logit - largest) - log_total, log_total - weighted / total, largest + log_total
    )


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
    to_gradient(z, part, statistics, upstream)
    return index, part, z


def rows_at_once(call: HeadCall) -> int:
    """How many whole rows of logits exist at a time."""
    return min(max(call.num_tokens, 1), max(_budget(ROW_ELEMENTS, call) // call.vocab_size, 1))


def block_columns(part: HeadCall) -> int:
    """Columns of the blocks in which whole rows are worked on."""
    return min(part.vocab_size, max(_budget(BLOCK_ELEMENTS, part) // max(part.num_tokens, 1), 1))


def _budget(elements: dict[str, int], call: HeadCall) -> int:
    return elements["cpu" if call.hidden.device.type == "cpu" else "cuda"]


def row_logits(part: HeadCall) -> torch.Tensor:
    """Scaled logits of whole rows, [n, V]; 16-bit weights are widened a block at a time."""
    vocab, dtype = part.vocab_size, part.statistics_dtype
    if part.weight.dtype == dtype:
        return tile_logits(part, part.weight, slice(0, vocab))
    z = part.hidden.new_empty((part.num_tokens, vocab), dtype=dtype)
    for columns in blocks(vocab, block_columns(part)):
        z[:, columns] = tile_logits(part, operand(part, part.weight[columns]), columns)
    return z


def blocks(size: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


def operand(call: HeadCall, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as matrix products take it: on a CPU, whose 16-bit products round their result, in
    the statistics' dtype.
    """
    return tensor.to(call.statistics_dtype if tensor.device.type == "cpu" else call.hidden.dtype)


def tile_logits(part: HeadCall, weight: torch.Tensor, columns: slice) -> torch.Tensor:
    """Scaled logits softcap(h W^T + b) / temperature of some rows and columns, [n, c]."""
    hidden, dtype = operand(part, part.hidden), part.statistics_dtype
    is_wide = hidden.dtype == dtype
    z = hidden @ weight.T if is_wide else torch.mm(hidden, weight.T, out_dtype=dtype)
    if part.bias is not None:
        z += part.bias[columns].to(z.dtype)
    if part.softcap is not None:
        z.div_(part.softcap).tanh_().mul_(part.softcap)
    if part.temperature != 1.0:
        z *= 1 / part.temperature
    return z


def target_index(part: HeadCall) -> tuple[torch.Tensor, torch.Tensor]:
    """Targets [n] clamped into the vocabulary, and which of them lie inside."""
    targets = part.targets.long()
    inside = (targets >= 0) & (targets < part.vocab_size)
    return targets.clamp(0, part.vocab_size - 1), inside


def to_gradient(
    z: torch.Tensor, part: HeadCall, statistics: Statistics, upstream: Sequence[torch.Tensor]
) -> None:
    """Overwrites scaled logits [n, V] with the gradient of the unscaled, uncapped logits.

    With log-probs l_v, entropy E, upstream a (log-prob) and b (entropy): dr_v = ((a (1[v = y] -
    p_v) - b p_v (l_v + E)) / temperature. At the target 1 - p_y is -expm1(l_y), exact as p_y -> 1.
    """
    inverse = 1 / part.temperature
    a, b = upstream[0][:, None] * inverse, upstream[1][:, None] * inverse
    entropy, log_p = statistics.entropy[:, None], statistics.logprobs[:, None]
    # A GPU is not made to wait for the answer.
    has_entropy = b.device.type != "cpu" or bool(b.any())
    at_target = -a * torch.expm1(log_p)
    at_target -= b * torch.where(log_p.isneginf(), 0.0, log_p.exp() * (log_p + entropy))
    index, inside = (found[:, None] for found in target_index(part))
    if part.softcap is not None:
        at_target *= 1 - (z.gather(1, index) / (inverse * part.softcap)).square_()
    for columns in blocks(part.vocab_size, block_columns(part)):
        block, slope = z[:, columns], None
        if part.softcap is not None:
            slope = 1 - (block / (inverse * part.softcap)).square_()
        block -= statistics.logsumexp[:, None]
        if part.bias is not None:
            block.clamp_(min=MASKED)
        p = block.exp()
        if has_entropy:
            block.mul_(-b).sub_(a + b * entropy).mul_(p)
        else:
            torch.mul(p, -a, out=block)
        if slope is not None:
            block *= slope
    z.scatter_(1, index, torch.where(inside, at_target, z.gather(1, index)))
