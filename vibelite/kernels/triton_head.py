"""The fused head on NVIDIA GPUs: what is computed in which order.

The loss stores exp(z) once, as bf16 for bf16 inputs, and turns it into dz in place; library GEMMs
turn dz into gradients. float16 has not the range for that. No atomics: results repeat bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from vibelite.kernels.chunked import blocks
from vibelite.kernels.fused_loss import PerTokenLoss, add_product, loss_and_upstream
from vibelite.kernels.head_call import Gradients, HeadCall, NeedsGrad, Statistics
from vibelite.kernels.triton_launch import (
    ceil_divide,
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


def forward(call: HeadCall) -> Statistics:
    """Statistics of every row [N] float32; workspace 192 bytes per row of a launch.

    A target outside the vocabulary gives NaN.
    """
    call = row_major(call)
    outputs = Statistics.empty(call)
    for rows in blocks(call.num_tokens, rows_per_launch(call)):
        launch_forward(call.select(rows), outputs.select(rows))
    return outputs


def loss_and_gradients(
    call: HeadCall, per_token_loss: PerTokenLoss, needs_grad: NeedsGrad
) -> tuple[torch.Tensor, Statistics, Gradients]:
    """Summed loss, statistics [N] float32, gradients of that sum. Rows without an upstream gradient
    cost the same as the others.
    """
    assert call.hidden.dtype != torch.float16, "exp(z) would not fit"
    if not needs_grad.any:
        outputs = forward(call)
        loss, _ = loss_and_upstream(per_token_loss, outputs, slice(0, call.num_tokens))
        return loss, outputs, Gradients()
    call = row_major(call)
    hidden, vocab, outputs = call.hidden, call.vocab_size, Statistics.empty(call)
    step = rows_at_once(call)
    loss = hidden.new_zeros((), dtype=torch.float32)
    exps = hidden.new_empty((min(step, call.num_tokens), ceil_divide(vocab, 256) * 256))
    sums = _room(call, needs_grad, is_whole=step >= call.num_tokens)
    for rows in blocks(call.num_tokens, step):
        part, statistics = call.select(rows), outputs.select(rows)
        part_exps = exps[: part.num_tokens]
        partial = launch_exp(part, part_exps)
        merge(part, partial, statistics)
        part_loss, upstream = loss_and_upstream(per_token_loss, statistics, rows)
        loss += part_loss
        launch_exp_to_dz(part, row_constants(part, statistics, upstream), partial, part_exps)
        dz = part_exps[:, :vocab]
        if sums.hidden is not None:
            add_product(sums.hidden[rows], dz, call.weight)
        if sums.weight is not None and sums.weight.dtype == torch.float32:
            add_product(sums.weight, dz.T, part.hidden)
        elif sums.weight is not None:
            _write_product(sums.weight, dz.T, part.hidden)
        if sums.bias is not None:
            sums.bias.add_(dz.sum(0, dtype=torch.float32))
    return loss, outputs, sums.like(call)


def _room(call: HeadCall, needs_grad: NeedsGrad, *, is_whole: bool) -> Gradients:
    """Zeros in float32; for a weight's gradient that is one product, in the weight's dtype."""
    hidden, weight, sums = call.hidden, call.weight, torch.float32
    dtype = weight.dtype if is_whole else sums
    return Gradients(
        torch.zeros_like(hidden, dtype=sums) if needs_grad.hidden else None,
        torch.zeros_like(weight, dtype=dtype) if needs_grad.weight else None,
        hidden.new_zeros(call.vocab_size, dtype=sums) if needs_grad.bias else None,
    )


def rows_per_launch(call: HeadCall) -> int:
    """Rows of one forward launch: a multiple of 128, launches of about equal size."""
    row_bytes = call.hidden.shape[1] * call.hidden.element_size()
    affordable = min(max(LAUNCH_BYTES // row_bytes, 1024), MAX_ROWS_PER_LAUNCH)
    return _equal_chunks(call.num_tokens, ceil_divide(call.num_tokens, affordable))


def rows_at_once(call: HeadCall) -> int:
    """Rows whose exponentials are stored at a time: a multiple of 128, within STORE_BYTES."""
    row_bytes = ceil_divide(call.vocab_size, 256) * 256 * call.hidden.element_size()
    return _equal_chunks(call.num_tokens, ceil_divide(call.num_tokens * row_bytes, STORE_BYTES))


def _equal_chunks(size: int, num_chunks: int) -> int:
    """The size of chunks of about equal size, a multiple of 128."""
    return max(ceil_divide(ceil_divide(size, max(num_chunks, 1)), 128), 1) * 128


def _write_product(out: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """out = left @ right, summed in float32 and rounded once."""
    if out.is_cuda:
        with _full_sums():
            torch.mm(left, right, out=out)
    else:
        out.copy_(left.float() @ right.float())


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


def row_major(call: HeadCall) -> HeadCall:
    """The call with unit-stride rows that do not overlap; copies only tensors that need it."""
    hidden, weight = (
        matrix
        if matrix.stride(1) == 1 and matrix.stride(0) >= matrix.shape[1]
        else matrix.contiguous()
        for matrix in (call.hidden, call.weight)
    )
    return replace(call, hidden=hidden, weight=weight, targets=call.targets.contiguous())
