"""Tile shapes of the Triton kernels and their launches; the order of the computation is not here.

A tile is chosen by the GPU and the inputs' dtype and width alone, never by timing: results do not
depend on what ran before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
from triton.runtime.interpreter import InterpretedFunction
from triton.tools.tensor_descriptor import TensorDescriptor

from vibelite.kernels import triton_kernels
from vibelite.kernels.head_call import HeadCall, Statistics

kernels: Any = triton_kernels  # the launch syntax is beyond the type checker
LOG2_E = 1 / math.log(2)
INTERPRETED = isinstance(triton_kernels.forward_kernel, InterpretedFunction)
# The vocabulary is always cut into this many parts, whatever N: a row's log-prob does not depend on
# the batch it is in. 16 parts x (N / 128) row tiles fill 132 processors from N = 1024 on.
NUM_SPLITS = 16
HOPPER = (9, 0)


@dataclass(frozen=True, slots=True)
class Tile:
    """Shape and schedule of a kernel: rows x columns x depth, warps, pipeline stages, and whether
    operands move by the tensor memory accelerator.
    """

    rows: int
    columns: int
    depth: int
    num_warps: int
    num_stages: int
    use_tma: bool


# Measured on an H100 at N = 8192 (benchmarks/README.md): the wide tile runs the forward pass at 710
# TFLOP/s for H = 1536; two narrow ones per processor hide each other's epilogue when H is small.
HOPPER_WIDE = Tile(128, 256, 64, 8, 3, use_tma=True)
HOPPER_NARROW = Tile(128, 128, 64, 4, 3, use_tma=True)
# Ampere, Ada and Blackwell, and what TMA cannot address: asynchronous copies through pointers. The
# Hopper tiles need more shared memory than an RTX 5090 has, and have not been tried on a B200.
AMPERE = Tile(128, 128, 32, 8, 3, use_tma=False)
FLOAT32 = Tile(64, 64, 32, 4, 2, use_tma=False)
NARROW_MAX_WIDTH = 1024


def ceil_divide(numerator: int, denominator: int) -> int:
    return -(-numerator // denominator)


def forward_tile(call: HeadCall) -> Tile:
    if call.hidden.shape[1] <= NARROW_MAX_WIDTH:
        return _tile(call, HOPPER_NARROW)
    return _tile(call, HOPPER_WIDE)


def dz_tile(call: HeadCall) -> Tile:
    """The tile of the kernels that store [N, V] matrices."""
    return _tile(call, HOPPER_WIDE)


def _tile(call: HeadCall, hopper: Tile) -> Tile:
    if INTERPRETED:
        return Tile(32, 64, 64, 4, 1, use_tma=fits_tma(call))
    if call.hidden.dtype == torch.float32:
        return FLOAT32
    if torch.cuda.get_device_capability(call.hidden.device) == HOPPER and fits_tma(call):
        return hopper
    return AMPERE


def fits_tma(call: HeadCall) -> bool:
    """TMA wants 16-byte aligned bases and row strides."""
    return all(
        tensor.data_ptr() % 16 == 0 and tensor.stride(0) * tensor.element_size() % 16 == 0
        for tensor in (call.hidden, call.weight)
    )


def launch_forward(part: HeadCall, outputs: Statistics) -> None:
    """Fills the statistics of the part's rows."""
    num, tile = part.num_tokens, forward_tile(part)
    num_splits = min(NUM_SPLITS, ceil_divide(part.vocab_size, tile.columns))
    partial = part.hidden.new_empty((num_splits, 3, num), dtype=torch.float32)
    num_row_tiles = ceil_divide(num, tile.rows)
    with torch.cuda.device_of(part.hidden):
        kernels.forward_kernel[(num_row_tiles * num_splits,)](
            *_operands(part, tile), part.bias, partial, *_sizes(part), *_scaling(part),
            num_row_tiles, num_splits, **_constants(part, tile),
        )  # fmt: skip
    merge(part, partial, outputs)


def merge(part: HeadCall, partial: torch.Tensor, outputs: Statistics) -> None:
    """Fills the statistics of the part's rows from partial (m, S, U) [parts, 3, n]."""
    num = part.num_tokens
    target_logit = part.hidden.new_empty(num, dtype=torch.float32)
    depth = 32 if part.hidden.dtype == torch.float32 else 64
    constants = _constants(part, Tile(64, 0, depth, 4, 3, use_tma=False))
    for name in ("BN", "USE_TMA"):
        del constants[name]
    with torch.cuda.device_of(part.hidden):
        kernels.target_kernel[(ceil_divide(num, 64),)](
            part.hidden, part.weight, part.bias, part.targets, target_logit, *_sizes(part),
            *_scaling(part), **constants,
        )  # fmt: skip
        kernels.merge_kernel[(ceil_divide(num, 32),)](
            partial, target_logit, outputs.logprobs, outputs.entropy, outputs.logsumexp, num,
            len(partial), PARTS=min(triton.next_power_of_2(len(partial)), 64), ROWS=32,
        )  # fmt: skip


def launch_exp(part: HeadCall, exps: torch.Tensor) -> torch.Tensor:
    """Fills exps [n, width >= V]; returns partial (k, S, U), [column tiles, 3, n] float32."""
    tile = dz_tile(part)
    row_tiles = ceil_divide(part.num_tokens, tile.rows)
    column_tiles = ceil_divide(part.vocab_size, tile.columns)
    programs = row_tiles * column_tiles
    if tile.use_tma and part.hidden.is_cuda:  # there the loop over tiles is pipelined
        properties = torch.cuda.get_device_properties(part.hidden.device)
        programs = min(programs, properties.multi_processor_count)
    partial = part.hidden.new_empty((column_tiles, 3, part.num_tokens), dtype=torch.float32)
    with torch.cuda.device_of(part.hidden):
        kernels.exp_kernel[(programs,)](
            *_operands(part, tile), part.bias, partial,
            _described(exps, tile, [tile.rows, tile.columns]), *_sizes(part),
            exps.stride(0), *_scaling(part), row_tiles, column_tiles, programs,
            **_constants(part, tile),
        )  # fmt: skip
    return partial


def launch_exp_to_dz(
    part: HeadCall, constants: torch.Tensor, partial: torch.Tensor, exps: torch.Tensor
) -> None:
    """Turns exps into dz in place."""
    rows, num, columns = 16, part.num_tokens, dz_tile(part).columns
    num_row_tiles = ceil_divide(num, rows)
    with torch.cuda.device_of(part.hidden):
        kernels.exp_to_dz_kernel[(num_row_tiles * len(partial),)](
            exps, partial, constants, num, part.vocab_size, exps.stride(0), *_scaling(part),
            num_row_tiles, ROWS=rows, BN=columns, HAS_SOFTCAP=part.softcap is not None,
        )  # fmt: skip
        kernels.target_dz_kernel[(ceil_divide(num, 128),)](
            part.targets, constants[3], exps, num, part.vocab_size, exps.stride(0), BLOCK=128
        )


def row_constants(
    part: HeadCall, statistics: Statistics, upstream: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """What dz needs of each row, [4, n] float32: log-sum-exp in base 2, A, B, dz at the target.

    Elsewhere dz = -p (A + B log2 p) with A = (a + b E) / temperature, B = b ln 2 / temperature.
    """
    num = part.num_tokens
    constants = part.hidden.new_empty((4, num), dtype=torch.float32)
    with torch.cuda.device_of(part.hidden):
        kernels.row_constants_kernel[(ceil_divide(num, 128),)](
            statistics.logprobs, statistics.entropy, statistics.logsumexp, *upstream, constants,
            num, upstream[0].stride(0), upstream[1].stride(0), *_scaling(part),
            BLOCK=128, HAS_SOFTCAP=part.softcap is not None,
        )  # fmt: skip
    return constants


def _operands(part: HeadCall, tile: Tile) -> tuple[object, object]:
    return (
        _described(part.hidden, tile, [tile.rows, tile.depth]),
        _described(part.weight, tile, [tile.columns, tile.depth]),
    )


def _described(matrix: torch.Tensor, tile: Tile, block: list[int]) -> object:
    return TensorDescriptor.from_tensor(matrix, block) if tile.use_tma else matrix


def _sizes(part: HeadCall) -> tuple[int, ...]:
    """N, V, H, the operands' row strides."""
    return (
        part.num_tokens,
        part.vocab_size,
        part.hidden.shape[1],
        part.hidden.stride(0),
        part.weight.stride(0),
    )


def _scaling(part: HeadCall) -> tuple[float, float]:
    """Softcap (0 for none), and log2(e) / temperature."""
    return part.softcap or 0.0, LOG2_E / part.temperature


def _constants(part: HeadCall, tile: Tile) -> dict[str, object]:
    """The kernels' compile-time arguments and launch options."""
    return {
        "BM": tile.rows,
        "BN": tile.columns,
        "BK": tile.depth,
        "EVEN_K": part.hidden.shape[1] % tile.depth == 0,
        "USE_TMA": tile.use_tma,
        "WIDEN": INTERPRETED and part.hidden.dtype == torch.bfloat16,
        "HAS_BIAS": part.bias is not None,
        "HAS_SOFTCAP": part.softcap is not None,
        "num_warps": tile.num_warps,
        "num_stages": tile.num_stages,
    }
