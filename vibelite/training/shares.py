"""How tensors are cut over ranks: flat, so that every rank has as much of each, or by rows, as
FSDP does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def share_size(numel: int, num_ranks: int) -> int:
    """Elements of every rank's share but the last ones', which may be shorter or empty."""
    return -(-numel // num_ranks)


def share_length(numel: int, num_ranks: int, rank: int) -> int:
    """Elements of one rank's share without its padding."""
    size = share_size(numel, num_ranks)
    return max(0, min(size, numel - rank * size))


def pack(tensors: Sequence[torch.Tensor], num_ranks: int) -> torch.Tensor:
    """[n, C]: row r holds share r of every tensor, one after the other; short ones end with 0."""
    sizes = [share_size(tensor.numel(), num_ranks) for tensor in tensors]
    packed = tensors[0].new_zeros(num_ranks, sum(sizes))
    for tensor, columns in zip(tensors, packed.split(sizes, dim=1), strict=True):
        flat, size = tensor.reshape(-1), columns.shape[1]
        num_full = flat.numel() // size
        columns[:num_full] = flat[: num_full * size].view(num_full, size)
        if rest := flat[num_full * size :].numel():
            columns[num_full, :rest] = flat[num_full * size :]
    return packed


def rows_of(tensor: torch.Tensor, num_ranks: int, rank: int) -> torch.Tensor:
    """One rank's rows of a tensor, as torch.chunk cuts it: none where there are too few."""
    parts = tensor.chunk(num_ranks)
    return parts[rank] if rank < len(parts) else tensor[:0]
