"""The fused head on NVIDIA GPUs: what is computed in which order.

The loss stores exp(z) once as bf16 and turns it into dz in place; float16 and float32 inputs, which
cannot be stored so, recompute dz a chunk of the vocabulary at a time. Library GEMMs turn dz into
gradients. No atomics: results repeat bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from vibelite.kernels.fused_loss import PerTokenLoss, add_product, loss_and_upstream
from vibelite.kernels.head_call import Gradients, HeadCall, NeedsGrad, Statistics
from vibelite.kernels.triton_launch import (
    ceil_divide,
    launch_dz,
    launch_exp,
    launch_exp_to_dz,
    launch_forward,
    merge,
    row_constants,
)

# Hidden states of one forward launch: they are read again for every vocabulary tile and must stay
# in the L2 cache (at N = 32768, H = 1536 a single launch ran at 541 TFLOP/s, four at 645).
LAUNCH_BYTES = 24 << 20
MAX_ROWS_PER_LAUNCH = 16384
# Bytes of stored exponentials: one chunk of 8192 rows at V = 151936 is 2.3 GiB. More rows than fit
# are done in chunks, at the price of a float32 [V, H] sum for the weight's gradient.
STORE_BYTES = 5 << 29
# Bytes of one chunk of dz where it is recomputed.
WORKSPACE_BYTES = 256 << 20


def forward(call: HeadCall) -> Statistics:
    """Statistics of every row [N] float32; workspace 192 bytes per row of a launch.

    A target outside the vocabulary gives NaN.
    """
    call = row_major(call)
    num, outputs, step = call.num_tokens, Statistics.empty(call), rows_per_launch(call)
    for start in range(0, num, step):
        rows = slice(start, min(start + step, num))
        launch_forward(call.select(rows), outputs.select(rows))
    return outputs


def loss_and_gradients(
    call: HeadCall, per_token_loss: PerTokenLoss, needs_grad: NeedsGrad
) -> tuple[torch.Tensor, Statistics, Gradients]:
    """Summed loss, statistics [N] float32, gradients of that sum.

    Only bf16 has the range to store exp(z) without loss; other dtypes compute the logits twice.
    """
    if needs_grad.any and call.hidden.dtype == torch.bfloat16 and call.num_tokens:
        return _in_one_pass(row_major(call), per_token_loss, needs_grad)
    statistics = forward(call)
    loss, upstream = loss_and_upstream(per_token_loss, statistics, slice(0, call.num_tokens))
    gradients = Gradients()
    if needs_grad.any:
        gradients = _recomputed_gradients(row_major(call), statistics, upstream, needs_grad)
    return loss, statistics, gradients


def _in_one_pass(
    call: HeadCall, per_token_loss: PerTokenLoss, needs_grad: NeedsGrad
) -> tuple[torch.Tensor, Statistics, Gradients]:
    """Rows without upstream gradient cost the same as the others."""
    num, vocab, hidden = call.num_tokens, call.vocab_size, call.hidden
    step, outputs = rows_at_once(call), Statistics.empty(call)
    loss = hidden.new_zeros((), dtype=torch.float32)
    weight_sum = None
    if needs_grad.weight and step < num:
        weight_sum = hidden.new_zeros(call.weight.shape, dtype=torch.float32)
    exps = hidden.new_empty((min(step, num), ceil_divide(vocab, 256) * 256))
    parts: list[Gradients] = []
    for start in range(0, num, step):
        rows = slice(start, min(start + step, num))
        part, statistics = call.select(rows), outputs.select(rows)
        part_exps = exps[: part.num_tokens]
        partial = launch_exp(part, part_exps)
        merge(part, partial, statistics)
        part_loss, upstream = loss_and_upstream(per_token_loss, statistics, rows)
        loss += part_loss
        constants, _ = row_constants(part, statistics, upstream)
        launch_exp_to_dz(part, constants, partial, part_exps)
        sums = GradientSums(part, needs_grad, weight_sum=weight_sum)
        sums.add(part_exps[:, :vocab], slice(0, vocab))
        parts.append(sums.finish())
    return loss, outputs, _joined(call, parts, weight_sum)


def _recomputed_gradients(
    call: HeadCall,
    statistics: Statistics,
    upstream: tuple[torch.Tensor, torch.Tensor],
    needs_grad: NeedsGrad,
) -> Gradients:
    """For upstream gradients [N], the vocabulary as the outer loop; rows without any drop out."""
    # Before the host waits for the number of rows, so that the device goes on at once after it.
    constants, dz_scale = row_constants(call, statistics, upstream)
    rows = ((upstream[0] != 0) | (upstream[1] != 0)).nonzero().squeeze(1)
    part, all_live = call, len(rows) == call.num_tokens
    if not all_live:
        part, constants = call.select(rows), constants[:, rows].contiguous()
    num, vocab = part.num_tokens, part.vocab_size
    sums = GradientSums(part, needs_grad, dz_scale=dz_scale)
    if num:
        width = chunk_columns(num, vocab, part.hidden.element_size())
        dz = part.hidden.new_empty((num, width))
        for start in range(0, vocab, width):
            columns = slice(start, min(start + width, vocab))
            launch_dz(part, constants, columns, dz)
            sums.add(dz[:, : columns.stop - start], columns)
    gradients = sums.finish()
    if gradients.hidden is None or all_live:
        return gradients
    full = call.hidden.new_zeros(call.hidden.shape)
    return replace(gradients, hidden=full.index_copy_(0, rows, gradients.hidden))


def rows_per_launch(call: HeadCall) -> int:
    """Rows of one forward launch: a multiple of 128, launches of about equal size."""
    row_bytes = call.hidden.shape[1] * call.hidden.element_size()
    affordable = min(max(LAUNCH_BYTES // row_bytes, 1024), MAX_ROWS_PER_LAUNCH)
    return _equal_chunks(call.num_tokens, ceil_divide(call.num_tokens, affordable), 128)


def rows_at_once(call: HeadCall) -> int:
    """Rows whose exponentials are stored at a time: a multiple of 128, within STORE_BYTES."""
    width = ceil_divide(call.vocab_size, 256) * 256
    num_chunks = ceil_divide(call.num_tokens * width * 2, STORE_BYTES)
    return _equal_chunks(call.num_tokens, num_chunks, 128)


def chunk_columns(num: int, vocab_size: int, element_size: int) -> int:
    """Columns of dz per chunk: a multiple of 256, chunks of equal width, about WORKSPACE_BYTES."""
    affordable = max(WORKSPACE_BYTES // (num * element_size) // 256, 1) * 256
    return _equal_chunks(vocab_size, ceil_divide(vocab_size, affordable), 256)


def _equal_chunks(size: int, num_chunks: int, multiple: int) -> int:
    """The size of chunks of about equal size, a multiple of `multiple`."""
    return max(ceil_divide(ceil_divide(size, max(num_chunks, 1)), multiple), 1) * multiple


class GradientSums:
    """The gradients under construction, fed one vocabulary chunk of dz [n, c] at a time.

    `weight_sum` [V, H] float32: the weight's gradient is added to it, for calls in several parts.
    `dz_scale` [1]: what dz was divided by.
    """

    def __init__(
        self,
        part: HeadCall,
        needs_grad: NeedsGrad,
        *,
        weight_sum: torch.Tensor | None = None,
        dz_scale: torch.Tensor | None = None,
    ) -> None:
        hidden, weight = part.hidden, part.weight
        self.part, self.dz_scale, self.weight_sum = part, dz_scale, weight_sum
        self.hidden = self.weight = self.bias = None
        if needs_grad.hidden:
            self.hidden = hidden.new_zeros(hidden.shape, dtype=torch.float32)
        if needs_grad.weight and weight_sum is None:
            make = weight.new_empty if part.num_tokens else weight.new_zeros
            self.weight = make(weight.shape)
        if needs_grad.bias:
            self.bias = hidden.new_zeros(part.vocab_size, dtype=torch.float32)

    def add(self, dz: torch.Tensor, columns: slice) -> None:
        if self.hidden is not None:
            add_product(self.hidden, dz, self.part.weight[columns])
        if self.weight_sum is not None:
            add_product(self.weight_sum[columns], dz.T, self.part.hidden)
        if self.weight is not None:
            self._write_weight(self.weight[columns], dz)
        if self.bias is not None:
            self.bias[columns] = dz.sum(0, dtype=torch.float32)

    def _write_weight(self, out: torch.Tensor, dz: torch.Tensor) -> None:
        hidden = self.part.hidden
        if hidden.is_cuda and self.dz_scale is None:
            with _full_sums():
                torch.mm(dz.T, hidden, out=out)
            return
        block = torch.zeros(out.shape, dtype=torch.float32, device=out.device)
        add_product(block, dz.T, hidden)
        out.copy_(block if self.dz_scale is None else block * self.dz_scale)

    def finish(self) -> Gradients:
        """The gradients in their tensors' dtypes."""
        if self.dz_scale is not None:
            for total in (self.hidden, self.bias):
                if total is not None:
                    total *= self.dz_scale
        return Gradients(self.hidden, self.weight, self.bias).like(self.part)


@contextmanager
def _full_sums() -> Iterator[None]:
    """Around a product in bfloat16 whose parts cuBLAS would add in bfloat16 too: on an H200 the
    weight's gradient was 3.3e-3 off float64 that way, and 2.3e-3 with parts added in float32.
    """
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_bf16_reduced_precision_reduction
    matmul.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        matmul.allow_bf16_reduced_precision_reduction = before


def _joined(call: HeadCall, parts: list[Gradients], weight_sum: torch.Tensor | None) -> Gradients:
    """One set of gradients from those of consecutive chunks of rows."""
    if len(parts) == 1:
        return parts[0]
    hiddens = [part.hidden for part in parts if part.hidden is not None]
    biases = [part.bias for part in parts if part.bias is not None]
    return Gradients(
        torch.cat(hiddens) if hiddens else None,
        None if weight_sum is None else weight_sum.to(call.weight.dtype),
        torch.stack(biases).sum(0) if biases else None,
    )


def row_major(call: HeadCall) -> HeadCall:
    """The call with unit-stride rows that do not overlap; copies only tensors that need it."""
    hidden, weight = (
        matrix
        if matrix.stride(1) == 1 and matrix.stride(0) >= matrix.shape[1]
        else matrix.contiguous()
        for matrix in (call.hidden, call.weight)
    )
    return replace(call, hidden=hidden, weight=weight, targets=call.targets.contiguous())
