"""How tensors are cut over ranks: by rows, as torch.chunk and FSDP do."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


def rows_of(tensor: torch.Tensor, num_ranks: int, rank: int) -> torch.Tensor:
    """One rank's rows of a tensor; none where there are too few. Shares memory."""
    parts = tensor.chunk(num_ranks)
    return parts[rank] if rank < len(parts) else tensor[:0]


def padded_size(shape: Sequence[int], num_ranks: int) -> int:
    """Elements of every rank's rows once they are padded to the most that a rank has."""
    return -(-shape[0] // num_ranks) * math.prod(shape[1:])


def pack(tensors: Sequence[torch.Tensor], num_ranks: int) -> torch.Tensor:
    """[ranks, C]: row r holds rank r's rows of every tensor, one after the other; where it has
    fewer than others the rest is 0.
    """
    sizes = [padded_size(tensor.shape, num_ranks) for tensor in tensors]
    packed = tensors[0].new_zeros(num_ranks, sum(sizes))
    for tensor, columns in zip(tensors, packed.split(sizes, dim=1), strict=True):
        flat, size = tensor.reshape(-1), columns.shape[1]
        num_full = flat.numel() // size
        columns[:num_full] = flat[: num_full * size].view(num_full, size)
        if rest := flat[num_full * size :].numel():
            columns[num_full, :rest] = flat[num_full * size :]
    return packed


def unpack(
    packed: torch.Tensor, shapes: Sequence[torch.Size], num_ranks: int, rank: int
) -> list[torch.Tensor]:
    """A rank's rows of tensors of `shapes` from its row [C] of what `pack` made; shares memory."""
    sizes = [padded_size(shape, num_ranks) for shape in shapes]
    found = []
    for shape, padded in zip(shapes, packed.split(sizes), strict=True):
        row = math.prod(shape[1:])
        most = padded.numel() // row
        num_rows = max(0, min(most, shape[0] - rank * most))
        found.append(padded[: num_rows * row].view(num_rows, *shape[1:]))
    return found


def pad(
    parts: Sequence[torch.Tensor], shapes: Sequence[torch.Size], num_ranks: int
) -> torch.Tensor:
    """[C]: a rank's rows of tensors of `shapes`, as `pack` lays them out."""
    sizes = [padded_size(shape, num_ranks) for shape in shapes]
    padded = parts[0].new_zeros(sum(sizes))
    for part, place in zip(parts, padded.split(sizes), strict=True):
        place[: part.numel()] = part.reshape(-1)
    return padded
