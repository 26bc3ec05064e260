"""The fused head on NVIDIA GPUs: what is computed in which order.

Forward: one kernel walks the vocabulary with logits in registers, two small ones finish. Backward:
the vocabulary is the outer loop; a kernel recomputes a chunk of dz in the inputs' dtype, and
library GEMMs turn it into the chunk's weight gradient (rounded once) and into float32 hidden
gradients. No atomics: results repeat bit for bit.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from vibelite.kernels.problem import Gradients, Problem, Statistics, Wanted
from vibelite.kernels.triton_launch import ceil_divide, launch_dz, launch_forward, row_constants

# Hidden states of one forward launch: they are read again for every vocabulary tile and must stay
# in the L2 cache (at N = 32768, H = 1536 a single launch ran at 541 TFLOP/s, four at 645).
LAUNCH_BYTES = 24 << 20
MAX_ROWS_PER_LAUNCH = 16384
# Bytes of one chunk of dz.
WORKSPACE_BYTES = 256 << 20


def forward(problem: Problem) -> Statistics:
    """Statistics of every row [N] float32; workspace 192 bytes per row of a launch.

    Row tiles without a target cost nothing. A target outside the vocabulary gives NaN.
    """
    problem = row_major(problem)
    num = problem.num_tokens
    outputs = [problem.hidden.new_empty(num, dtype=torch.float32) for _ in range(3)]
    step = rows_per_launch(problem)
    for start in range(0, num, step):
        rows = slice(start, min(start + step, num))
        launch_forward(problem.select(rows), [output[rows] for output in outputs])
    return Statistics(*outputs)


def rows_per_launch(problem: Problem) -> int:
    """Rows of one forward launch: a multiple of 128, launches of about equal size."""
    row_bytes = problem.hidden.shape[1] * problem.hidden.element_size()
    affordable = min(max(LAUNCH_BYTES // row_bytes, 1024), MAX_ROWS_PER_LAUNCH)
    num_launches = max(ceil_divide(problem.num_tokens, affordable), 1)
    return max(ceil_divide(ceil_divide(problem.num_tokens, num_launches), 128), 1) * 128


def backward(
    problem: Problem,
    statistics: Statistics,
    grad_logprobs: torch.Tensor,
    grad_entropy: torch.Tensor,
    wanted: Wanted,
    weight_grad_out: torch.Tensor | None = None,
) -> Gradients:
    """Gradients for upstream gradients [N]; adds the weight's to `weight_grad_out` where given.

    Rows whose upstream gradients are both 0, or that are ignored, are dropped first; counting them
    makes the host wait for the device once, so under CUDA graph capture all rows are kept.
    """
    problem = row_major(problem)
    # Before the host waits, so that the device goes on at once after it.
    constants, dz_scale = row_constants(problem, statistics, (grad_logprobs, grad_entropy))
    if problem.hidden.is_cuda and torch.cuda.is_current_stream_capturing():
        return _backward_rows(problem, constants, dz_scale, wanted, weight_grad_out)
    live = ((grad_logprobs != 0) | (grad_entropy != 0)) & (problem.targets != problem.ignore_index)
    rows = live.nonzero().squeeze(1)
    if len(rows) == problem.num_tokens:
        return _backward_rows(problem, constants, dz_scale, wanted, weight_grad_out)
    gradients = _backward_rows(
        problem.select(rows), constants[:, rows].contiguous(), dz_scale, wanted, weight_grad_out
    )
    if gradients.hidden is None:
        return gradients
    full = problem.hidden.new_zeros(problem.hidden.shape)
    return replace(gradients, hidden=full.index_copy_(0, rows, gradients.hidden))


def _backward_rows(
    part: Problem,
    constants: torch.Tensor,
    dz_scale: torch.Tensor | None,
    wanted: Wanted,
    weight_grad_out: torch.Tensor | None,
) -> Gradients:
    num, vocab = part.num_tokens, part.vocab_size
    sums = GradientSums(part, wanted, weight_grad_out, dz_scale)
    if num == 0:
        return sums.finish()
    width = chunk_columns(num, vocab, part.hidden.element_size())
    dz = part.hidden.new_empty((num, width))
    for start in range(0, vocab, width):
        columns = slice(start, min(start + width, vocab))
        launch_dz(part, constants, columns, dz)
        sums.add(dz[:, : columns.stop - start], columns)
    return sums.finish()


def rows_at_once(problem: Problem) -> int:
    """How many whole rows of dz exist at a time: a multiple of 128 in about WORKSPACE_BYTES."""
    row_bytes = ceil_divide(problem.vocab_size, 256) * 256 * problem.hidden.element_size()
    return max(WORKSPACE_BYTES // row_bytes // 128, 1) * 128


def dz_of_rows(
    part: Problem, statistics: Statistics, upstream: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """dz [n, V] of whole rows in the inputs' dtype, and what it was divided by ([1], float16)."""
    if part.hidden.is_cuda and torch.cuda.is_current_stream_capturing():
        raise RuntimeError("grad_tol makes the host wait, which a CUDA graph cannot capture")
    part = row_major(part)
    constants, dz_scale = row_constants(part, statistics, upstream)
    vocab = part.vocab_size
    dz = part.hidden.new_empty((part.num_tokens, ceil_divide(vocab, 256) * 256))
    launch_dz(part, constants, slice(0, vocab), dz)
    return dz[:, :vocab], dz_scale


def chunk_columns(num: int, vocab_size: int, element_size: int) -> int:
    """Columns of dz per chunk: a multiple of 256, chunks of equal width, about WORKSPACE_BYTES."""
    affordable = max(WORKSPACE_BYTES // (num * element_size) // 256, 1) * 256
    num_chunks = ceil_divide(vocab_size, affordable)
    return ceil_divide(ceil_divide(vocab_size, num_chunks), 256) * 256


class GradientSums:
    """The gradients under construction, fed one vocabulary chunk of dz [n, c] at a time."""

    def __init__(
        self,
        part: Problem,
        wanted: Wanted,
        weight_grad_out: torch.Tensor | None,
        dz_scale: torch.Tensor | None,
    ) -> None:
        hidden, weight = part.hidden, part.weight
        self.part, self.dz_scale, self.weight_grad_out = part, dz_scale, weight_grad_out
        self.hidden = hidden.new_zeros(hidden.shape, dtype=torch.float32) if wanted.hidden else None
        self.weight = weight_grad_out if wanted.weight else None
        if wanted.weight and weight_grad_out is None:
            make = weight.new_empty if part.num_tokens else weight.new_zeros
            self.weight = make(weight.shape)
        size = (part.vocab_size,)
        self.bias = hidden.new_zeros(size, dtype=torch.float32) if wanted.bias else None

    def add(self, dz: torch.Tensor, columns: slice) -> None:
        if self.hidden is not None:
            add_product(self.hidden, dz, self.part.weight[columns])
        if self.weight is not None:
            self._add_weight(self.weight[columns], dz)
        if self.bias is not None:
            self.bias[columns] = dz.sum(0, dtype=torch.float32)

    def _add_weight(self, out: torch.Tensor, dz: torch.Tensor) -> None:
        hidden, owns_out = self.part.hidden, self.weight_grad_out is None
        if hidden.is_cuda and owns_out and self.dz_scale is None:
            torch.mm(dz.T, hidden, out=out)
        elif out.dtype == torch.float32 and not owns_out and self.dz_scale is None:
            add_product(out, dz.T, hidden)
        else:
            block = torch.zeros(out.shape, dtype=torch.float32, device=out.device)
            add_product(block, dz.T, hidden)
            if self.dz_scale is not None:
                block *= self.dz_scale
            if owns_out:
                out.copy_(block)
            else:
                out += block.to(out.dtype)

    def finish(self) -> Gradients:
        """The gradients in their tensors' dtypes."""
        if self.dz_scale is not None:
            for total in (self.hidden, self.bias):
                if total is not None:
                    total *= self.dz_scale
        bias = self.part.bias
        return Gradients(
            None if self.hidden is None else self.hidden.to(self.part.hidden.dtype),
            self.weight if self.weight_grad_out is None else None,
            None if self.bias is None or bias is None else self.bias.to(bias.dtype),
        )


def add_product(out: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """out += left @ right, accumulated in out's float32."""
    if left.dtype == out.dtype or not out.is_cuda:
        out.addmm_(left.to(out.dtype), right.to(out.dtype))
    else:
        torch.addmm(out, left, right, out_dtype=out.dtype, out=out)


def row_major(problem: Problem) -> Problem:
    """The problem with unit-stride rows that do not overlap; copies only tensors that need it."""
    return replace(
        problem,
        hidden=_unit_stride(problem.hidden),
        weight=_unit_stride(problem.weight),
        targets=problem.targets.contiguous(),
    )


def _unit_stride(matrix: torch.Tensor) -> torch.Tensor:
    if matrix.stride(1) == 1 and matrix.stride(0) >= matrix.shape[1]:
        return matrix
    return matrix.contiguous()
