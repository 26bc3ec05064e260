"""What every optimizer does with gradients: one norm for all places, work in pieces of bounded
size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch

# Entries whose squares are summed in one go. Torch's norm on a CPU adds in float32 one after the
# other: 0.18 % too small over 33 million entries, 0.9 % over 100 million, 1e-7 over blocks of this
# size.
NORM_BLOCK = 1 << 16
# Blocks of 16-bit entries that a CPU widens at a time, in one buffer of 16 MiB: torch would widen a
# whole tensor into fresh pages, whose faults cost more than the norm.
WIDENED_BLOCKS = 64
# Entries that are updated together, which bounds temporary copies to 256 MiB in float32.
BUCKET_ELEMENTS = 1 << 26


def global_norm(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """The Euclidean norm over all entries of all `gradients`, float32 scalar on their device.

    The same blocks of the same entries are summed wherever and in whatever type they are held.
    """
    norms = [norm for gradient in gradients for norm in _block_norms(gradient.reshape(-1))]
    if not norms:
        return torch.zeros(())
    return torch.linalg.vector_norm(torch.cat(norms))


def clip_factor(norm: torch.Tensor, max_norm: float) -> torch.Tensor:
    """min(1, max_norm / norm), with the 1e-6 beside the norm of torch.nn.utils.clip_grad_norm_."""
    return (max_norm / (norm + 1e-6)).clamp(max=1.0)


def buckets(sizes: Iterable[int]) -> Iterator[list[int]]:
    """Consecutive indices whose sizes sum to at most BUCKET_ELEMENTS; a larger one is alone."""
    bucket: list[int] = []
    total = 0
    for index, size in enumerate(sizes):
        if bucket and total + size > BUCKET_ELEMENTS:
            yield bucket
            bucket, total = [], 0
        bucket.append(index)
        total += size
    if bucket:
        yield bucket


def _block_norms(flat: torch.Tensor) -> Iterator[torch.Tensor]:
    """Norms [blocks] of the whole blocks of `flat` [n], then that of the rest [1]."""
    num_whole = flat.numel() // NORM_BLOCK * NORM_BLOCK
    if num_whole:
        blocks = flat[:num_whole].view(-1, NORM_BLOCK)
        is_wide = flat.device.type != "cpu" or flat.dtype.itemsize >= 4
        for some in [blocks] if is_wide else _widened(blocks):
            yield torch.linalg.vector_norm(some, dim=1, dtype=torch.float32)
    if num_whole < flat.numel():
        yield torch.linalg.vector_norm(flat[num_whole:], dtype=torch.float32)[None]


def _widened(blocks: torch.Tensor) -> Iterator[torch.Tensor]:
    """Some rows of `blocks` [n, m] at a time in float32, all in the same memory."""
    wide = torch.empty(min(len(blocks), WIDENED_BLOCKS), blocks.shape[1])
    for some in blocks.split(len(wide)):
        yield wide[: len(some)].copy_(some)
