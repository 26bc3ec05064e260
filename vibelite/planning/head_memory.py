"""Bytes of the fused head's workspace on a GPU, and the numbers that bound it in plain torch.

The numbers are those of `vibelite/kernels`, which cannot be imported here: they need torch. A test
holds the two together.
"""

from __future__ import annotations

from vibelite.planning.model_shape import ModelShape

FLOAT32 = 4
# Logits of whole rows at a time, and of the blocks that they are worked on in (kernels/chunked.py).
CPU_LOGITS = (8 << 20, 1 << 19)
GPU_LOGITS = (1 << 28, 1 << 28)
# Stored exponentials of the one-pass loss, and dz of the recomputing path (kernels/triton_head.py).
STORE_BYTES = 5 << 29
WORKSPACE_BYTES = 256 << 20


def gpu_head_bytes(shape: ModelShape, tokens: int, *, is_bfloat16: bool) -> dict[str, float]:
    """Bytes of the Triton head and loss on `tokens` trained tokens, by part.

    Hidden states and their gradient 2 H each, and 4 H where it is summed in float32; the weight's
    gradient 2 V H, `held` until the embedding's own if they are one matrix. bfloat16 takes the
    one-pass loss: it stores exp(z), 2 bytes a logit, of as many rows as fit STORE_BYTES; with more
    rows than that the weight's gradient is summed in float32, 4 V H. float16 recomputes dz in
    WORKSPACE_BYTES.
    """
    matrix = shape.vocab_size * shape.hidden_size
    stored = 2.0 * tokens * shape.vocab_size
    if is_bfloat16:
        workspace = min(stored, STORE_BYTES)
        summed = FLOAT32 * matrix if stored > STORE_BYTES else 0
    else:
        workspace, summed = min(stored, WORKSPACE_BYTES), 0
    return {
        "hidden": tokens * shape.hidden_size * (2 + 2 + FLOAT32),
        "logits": workspace,
        "gradient": summed + (0 if shape.tied else 2 * matrix),
        "held": 2 * matrix if shape.tied else 0,
    }
