"""Bytes of activations of one packed micro-batch, forward and backward, counted tensor by tensor
from what the layers of `vibelite/models` keep for their backward pass, and of the fused head; no
torch.

Source: own count of transformers' Qwen2 and Llama layers. `benchmarks/memory_growth.py` holds it
against every allocation that is made, 1K to 32K tokens.
"""

from __future__ import annotations

from vibelite.planning.model_shape import BYTES, FLOAT32, ModelShape
from vibelite.recipe.model_section import Training

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
    training: Training,
    tokens: int,
    *,
    in_buckets: bool = False,
    at_head: bool = False,
) -> dict[str, float]:
    """Bytes by part of a micro-batch of `tokens`; all but `offloaded` on the device. At the worst
    moment of the backward pass, or `at_head`: what the layers and the last norm keep, no work, to
    which the head adds its own (`head_bytes`).

    `in_buckets` = attention without flash attention over variable lengths (a CPU, float32), which
    copies outputs once more. With b bytes of a weight, H hidden, I MLP, q all queries, k all keys,
    per token and layer:

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
    b, hidden, mlp = BYTES[training.dtype], shape.hidden_size, shape.mlp_size
    tile = training.mlp_tile_tokens if training.mlp_tile_tokens < tokens else 0
    inner = tokens * _inner_bytes(shape, b, tiled=bool(tile), in_buckets=in_buckets)
    is_kept = training.activations == "keep"
    if at_head:
        work = tokens * (b * hidden + (0 if tile else _norm_bytes(shape, b)))
        weights = 0
    elif tile:
        work = tokens * 2 * b * hidden + tile * b * (6 * mlp + hidden)
        weights = hidden * mlp * (3 * FLOAT32 + 2 * b)
    else:
        work = tokens * max(b * hidden + 2 * b * mlp, NORM_COPIES * FLOAT32 * hidden)
        weights = hidden * mlp * b
    inputs = tokens * b * hidden
    parts: dict[str, float] = {
        "positions": tokens * (2 * b * shape.head_size + INDEX_BYTES),
        "weights": weights,
        "kept": shape.num_layers * (inputs + (inner if is_kept else 0)),
        "work": work + (0 if is_kept or at_head else inner),
    }
    if training.activations == "checkpoint_offload":
        parts |= {"kept": min(2, shape.num_layers) * inputs, "offloaded": parts["kept"]}
    return parts


def head_bytes(
    shape: ModelShape, trained_tokens: int, dtype_bytes: int, *, logits: int
) -> dict[str, float]:
    """Bytes of the fused head and loss in plain torch, by part; M trained tokens.

    Hidden states that predict them bMH and their gradient in float32 4MH (and bMH, 16-bit); the
    weight's gradient 4VH (and bVH, 16-bit); `logits` numbers of logits at a time, float32. A tied
    head's gradient bVH (`held`) stays until the backward pass has reached the embedding.
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
    """Per token beside input and output: the normalised input, its scale, 16-bit inputs widened."""
    widened = FLOAT32 * shape.hidden_size if b < FLOAT32 else 0
    return b * shape.hidden_size + widened + FLOAT32
