"""How many bytes of keys and values an engine may hold: what the trainer leaves, and no more than
can be used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psutil
import torch

from vibelite.errors import EngineError
from vibelite.units import GIB

# CUDA graphs, workspaces and what the allocator cannot use (a share of the whole card).
MARGIN_SHARE = 0.05
# Sampling holds logits in their own type, in float32, and a sorted or masked copy.
BYTES_PER_LOGIT = 12
# The engine's part of the host's memory, where weights, optimizer and verifiers live too.
HOST_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class BatchSizes:
    """The most that an engine reads side by side, and the longest that a sequence may be."""

    max_sequences: int
    max_model_len: int
    max_batched_tokens: int


@dataclass(frozen=True, slots=True)
class EngineShape:
    """What an engine's memory depends on."""

    batch: BatchSizes
    bytes_per_token: int
    """Keys and values of one token in all layers, on one GPU."""
    activation_bytes: int
    """What one token needs while a layer works on it."""
    vocab_size: int


def engine_shape(
    config: Any, dtype: torch.dtype, batch: BatchSizes, *, num_slices: int = 1
) -> EngineShape:
    """The shape for a Hugging Face configuration in `dtype`; each of `num_slices` GPUs that hold
    the engine together has some of the heads.
    """
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    kv_heads = max(1, kv_heads // num_slices)
    widest = 4 * config.hidden_size + 3 * config.intermediate_size
    return EngineShape(
        batch,
        bytes_per_token=2 * config.num_hidden_layers * kv_heads * head * dtype.itemsize,
        activation_bytes=widest * dtype.itemsize,
        vocab_size=config.vocab_size,
    )


def kv_cache_bytes(shape: EngineShape, *, free_bytes: int, total_bytes: int) -> int:
    """Bytes for keys and values where `free_bytes` of `total_bytes` are left besides the engine's
    weights. EngineError where not even one full sequence fits.
    """
    batch = shape.batch
    working = (
        batch.max_batched_tokens * shape.activation_bytes
        + batch.max_sequences * shape.vocab_size * BYTES_PER_LOGIT
        + int(MARGIN_SHARE * total_bytes)
    )
    # One block more for each sequence: the last one is never full. Blocks hold at most 32 tokens.
    least = (batch.max_model_len + 32) * shape.bytes_per_token
    useful = batch.max_sequences * least
    available = free_bytes - working
    if available < least:
        raise EngineError(
            f"vLLM's KV cache needs {least / GIB:.2f} GiB for one sequence of "
            f"{batch.max_model_len} tokens and {max(available, 0) / GIB:.2f} GiB are left; lower "
            "stages.*.sampling.max_new_tokens, max_sequences or rollout.vllm.max_prompt_tokens, or "
            "shrink the trainer (vibelite plan says how)"
        )
    return min(available, useful)


def device_memory(device: torch.device) -> tuple[int, int]:
    """Free and total bytes where the engine would live; without a GPU, its share of the host's."""
    if device.type != "cuda":
        return int(HOST_SHARE * psutil.virtual_memory().available), 0
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)
