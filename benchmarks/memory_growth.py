"""The memory of one training micro-batch on a CPU: measured by its allocations, and predicted.

Bytes are those of tensors above what was held before. The prediction has no term in T x T or T x V.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from torch.profiler import ProfilerActivity, profile

from vibelite.kernels.chunked import BLOCK_ELEMENTS, ROW_ELEMENTS
from vibelite.planning.activation_memory import activation_bytes, head_bytes
from vibelite.planning.model_shape import BYTES, ModelShape
from vibelite.recipe.model_section import Training


def predicted_bytes(shape: ModelShape, training: Training, tokens: tuple[int, int]) -> float:
    """The peak on a CPU by `activation_memory`, in the backward pass or when the head is at work;
    `tokens`: all, and the trained ones.

    There an offloaded input is copied back when it is wanted, so one less is on the device.
    """
    num_tokens, trained = tokens
    backward = activation_bytes(shape, training, num_tokens, in_buckets=True)
    forward = activation_bytes(shape, training, num_tokens, in_buckets=True, at_head=True)
    if training.activations == "checkpoint_offload":
        backward["kept"] /= 2
    # Whole rows of logits, and two blocks in which they are worked on.
    rows = min(ROW_ELEMENTS["cpu"], trained * shape.vocab_size)
    blocks = 2 * min(BLOCK_ELEMENTS["cpu"], rows)
    head = head_bytes(shape, trained, BYTES[training.dtype], logits=rows + blocks)
    return max(sum(backward.values()) + head["held"], sum(forward.values()) + sum(head.values()))


def peak_allocated_bytes(work: Callable[[], object]) -> int:
    """The most bytes that tensors allocated during `work` held together, on the CPU."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    results = cast(Any, profiler.profiler).kineto_results
    events, changes = list(results.experimental_event_tree()), []
    while events:
        event = events.pop()
        events += event.children
        if event.tag.name == "Allocation":
            size = cast(Any, event.extra_fields).alloc_size  # negative when freed
            changes.append((event.start_time_ns, size))
    sizes = np.array([size for _, size in sorted(changes, key=lambda change: change[0])])
    return int(sizes.cumsum().max())
