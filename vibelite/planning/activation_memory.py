"""Bytes of activations of one packed micro-batch, forward and backward, counted tensor by tensor
from what the layers of `vibelite/models` keep for their backward pass, and of the fused head; no
torch.

Source: own count of transformers' Qwen2 and Llama layers. `benchmarks/memory_growth.py` holds it
against every allocation that is made, 1K to 32K tokens.
"""

from __future__ import annotations

from typing import Literal

from vibelite.planning.model_shape import ModelShape
from vibelite.planning.optimizer_memory import FLOAT32

Activations = Literal["keep", "checkpoint", "checkpoint_offload"]

# Per token: positions of the packed row, and of the buckets that attention runs in, int64 each.
INDEX_BYTES = 16
# At its worst the backward pass of transformers' norm holds five float32 copies of its input.
NORM_COPIES = 5
# The rest is of `vibelite/kernels`, which need torch; a test holds the two together.
# Logits of whole rows at a time, and of the blocks that they are worked on in (kernels/chunked.py).
CPU_LOGITS = (8 << 20, 1 << 19)
GPU_LOGITS = (1 << 28, 1 << 28)
# Stored exponentials (kernels/triton_head.py).
STORE_BYTES = 5 << 29


def activation_bytes(
    shape: ModelShape,
    tokens: int,
    activations: Activations,
    mlp_tile_tokens: int,
    dtype_bytes: int,
    *,
    in_buckets: bool = False,
) -> dict[str, float]:
    """Bytes at the worst moment of the backward pass, by part; all but `offloaded` on the device.

    `tokens` T in the micro-batch; `dtype_bytes` b of a weight; `in_buckets` = attention without
    flash attention over variable lengths (a CPU, float32), which copies outputs once more. With H
    hidden, I MLP, q all queries, k all keys, per token and layer:

        a layer keeps     its input bH, the output of attention + that bH, both norms' outputs 2bH,
                          attention b (2q + 2k + q in buckets) + 4 per head (float32 log-sums),
                          the MLP's 4bI, and of the norms 2bH and, 16-bit, 8H (in float32)
        ... tiled         the same without the last line
        ... checkpointed  its input alone; two of them on the device if they are offloaded
        work              what a checkpointed layer keeps, again; the gradient of the residual bH;
                          two gradients in the MLP 2bI (at that moment its last output is gone)
        ... tiled         two gradients of the residual 2bH, for tile_tokens 6bI + bH

    and once: rotations 2 b head_size, index 16. `weights` are gradients of matrices on their way to
    being summed: one of the MLP, or, tiled, three in float32 and two more (b each).
    """
    b, hidden, mlp = dtype_bytes, shape.hidden_size, shape.mlp_size
    tile = mlp_tile_tokens if 0 < mlp_tile_tokens < tokens else 0
    inner = _inner_bytes(shape, b, tiled=bool(tile), in_buckets=in_buckets)
    if tile:
        work = tokens * 2 * b * hidden + tile * b * (6 * mlp + hidden)
        weights = hidden * mlp * (3 * FLOAT32 + 2 * b)
    else:
        work = tokens * max(b * hidden + 2 * b * mlp, NORM_COPIES * FLOAT32 * hidden)
        weights = hidden * mlp * b
    inputs = tokens * b * hidden
    positions = tokens * (2 * b * shape.head_size + INDEX_BYTES)
    parts: dict[str, float] = {"positions": positions, "weights": weights}
    if activations == "keep":
        return parts | {"kept": shape.num_layers * (inputs + tokens * inner), "work": work}
    parts |= {"kept": shape.num_layers * inputs, "work": work + tokens * inner}
    if activations == "checkpoint":
        return parts
    on_device = min(2, shape.num_layers) * inputs
    return parts | {"kept": on_device, "offloaded": parts["kept"]}


def bytes_before_backward(
    shape: ModelShape,
    tokens: int,
    activations: Activations,
    mlp_tile_tokens: int,
    dtype_bytes: int,
    *,
    in_buckets: bool = False,
) -> dict[str, float]:
    """Bytes when the head begins: all that the layers and the last norm keep, no work.

    The head's own come on top (`head_bytes`).
    """
    parts = activation_bytes(
        shape, tokens, activations, mlp_tile_tokens, dtype_bytes, in_buckets=in_buckets
    )
    last = dtype_bytes * shape.hidden_size
    if not 0 < mlp_tile_tokens < tokens:
        last += _norm_bytes(shape, dtype_bytes)
    return parts | {"weights": 0, "work": tokens * last}


def head_bytes(
    shape: ModelShape, trained_tokens: int, dtype_bytes: int, *, logits: int
) -> dict[str, float]:
    """Bytes of the fused head and loss in plain torch, by part; M trained tokens.

    Hidden states that predict them bMH and their gradient in float32 4MH (and bMH, 16-bit); the
    weight's gradient 4VH (and bVH, 16-bit); `logits` numbers of logits at a time, float32. A tied
    head's gradient bVH (`held`) stays until the backward pass has reached the embedding; the other
    parts are gone before it begins.
    """
    b, rows = dtype_bytes, trained_tokens * shape.hidden_size
    weight = shape.vocab_size * shape.hidden_size
    cast = b if b < FLOAT32 else 0
    held = b * weight if shape.tied else 0
    return {
        "hidden": rows * (b + FLOAT32 + cast),
        "logits": FLOAT32 * logits,
        "gradient": weight * (FLOAT32 + cast) - held,
        "held": held,
    }


def gpu_head_bytes(shape: ModelShape, tokens: int) -> dict[str, float]:
    """Bytes of the Triton head and loss in bfloat16 on `tokens` trained tokens, by part.

    Hidden states and their gradient 2 H each, and 4 H where it is summed; the weight's gradient
    2 V H, `held` until the embedding's own if they are one matrix; exp(z), 2 bytes a logit, of as
    many rows as fit STORE_BYTES: with more rows the weight's gradient is summed in float32, 4 V H.
    """
    matrix = shape.vocab_size * shape.hidden_size
    stored = 2.0 * tokens * shape.vocab_size
    summed = FLOAT32 * matrix if stored > STORE_BYTES else 0
    return {
        "hidden": tokens * shape.hidden_size * (2 + 2 + FLOAT32),
        "logits": min(stored, STORE_BYTES),
        "gradient": summed + (0 if shape.tied else 2 * matrix),
        "held": 2 * matrix if shape.tied else 0,
    }


def _inner_bytes(shape: ModelShape, b: int, *, tiled: bool, in_buckets: bool) -> float:
    """Bytes per token that a layer keeps for its backward pass beside its input."""
    residual_and_norms = 3 * b * shape.hidden_size
    queries = 3 if in_buckets else 2
    attention = b * (queries * shape.query_size + 2 * shape.key_size) + FLOAT32 * shape.num_heads
    if tiled:
        return residual_and_norms + attention
    return residual_and_norms + attention + 4 * b * shape.mlp_size + 2 * _norm_bytes(shape, b)


def _norm_bytes(shape: ModelShape, b: int) -> int:
    """Bytes per token that one norm keeps beside its input and output: the normalised input, its
    scale, and for 16-bit inputs the input in float32.
    """
    widened = FLOAT32 * shape.hidden_size if b < FLOAT32 else 0
    return b * shape.hidden_size + widened + FLOAT32
