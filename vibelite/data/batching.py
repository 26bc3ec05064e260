"""Packing: sequences of tokens laid end to end into one row, in micro-batches of a token budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vibelite.types import TokenBatch


@dataclass(frozen=True, slots=True)
class TrainingSequence:
    """One sequence before packing: token ids [T] and, for each, whether it is trained on.

    `advantage` and `sampler_logprobs` [number of trained tokens] are for reinforcement learning;
    `token_weight` is the weight of each trained token in the step's loss.
    """

    token_ids: Sequence[int]
    completion_mask: Sequence[bool]
    token_weight: float = 1.0
    advantage: float = 0.0
    sampler_logprobs: Sequence[float] = ()


def split_by_tokens(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of the sequences of each micro-batch, at most `budget` tokens each, longest first.

    A sequence longer than the budget gets a micro-batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    micro_batches: list[list[int]] = []
    room: list[int] = []
    for index in order:
        for position, free in enumerate(room):
            if lengths[index] <= free:
                micro_batches[position].append(index)
                room[position] -= lengths[index]
                break
        else:
            micro_batches.append([index])
            room.append(max(0, budget - lengths[index]))
    return micro_batches


def share_by_tokens(
    sequences: Sequence[TrainingSequence], num_ranks: int
) -> list[list[TrainingSequence]]:
    """The sequences of each rank, with about as many tokens for each: longest first, to the rank
    that has least. In their order within a rank; all of them for one.
    """
    shares: list[list[int]] = [[] for _ in range(num_ranks)]
    tokens = [0] * num_ranks
    lengths = [len(sequence.token_ids) for sequence in sequences]
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        rank = tokens.index(min(tokens))
        shares[rank].append(index)
        tokens[rank] += lengths[index]
    return [[sequences[index] for index in sorted(share)] for share in shares]


def pack(sequences: Sequence[TrainingSequence], device: torch.device) -> TokenBatch:
    """One TokenBatch [N] of all the sequences, in order; N = the sum of their lengths."""
    token_ids: list[int] = []
    positions: list[int] = []
    mask: list[bool] = []
    boundaries = [0]
    for sequence in sequences:
        assert not sequence.completion_mask[0], "the first token of a sequence has no log-prob"
        token_ids.extend(sequence.token_ids)
        positions.extend(range(len(sequence.token_ids)))
        mask.extend(sequence.completion_mask)
        boundaries.append(len(token_ids))
    completion_mask = torch.tensor(mask, dtype=torch.bool)
    return TokenBatch(
        input_ids=torch.tensor(token_ids, dtype=torch.long, device=device),
        position_ids=torch.tensor(positions, dtype=torch.long, device=device),
        cu_seqlens=torch.tensor(boundaries, dtype=torch.int32, device=device),
        completion_mask=completion_mask.to(device),
        token_weights=_per_token(
            [s.token_weight for s in sequences], sequences, completion_mask, device
        ),
        advantages=_per_token([s.advantage for s in sequences], sequences, completion_mask, device),
        sampler_logprobs=_sampler_logprobs(sequences, completion_mask, device),
    )


def _per_token(
    values: Sequence[float],
    sequences: Sequence[TrainingSequence],
    mask: torch.Tensor,
    device: torch.device,
) -> torch.Tensor:
    """[N] float32: each sequence's value on its trained tokens, 0 elsewhere."""
    lengths = torch.tensor([len(sequence.token_ids) for sequence in sequences])
    spread = torch.repeat_interleave(torch.tensor(values, dtype=torch.float32), lengths)
    return (spread * mask).to(device)


def _sampler_logprobs(
    sequences: Sequence[TrainingSequence], mask: torch.Tensor, device: torch.device
) -> torch.Tensor | None:
    if not any(sequence.sampler_logprobs for sequence in sequences):
        return None
    flat = [logprob for sequence in sequences for logprob in sequence.sampler_logprobs]
    spread = torch.zeros(mask.shape[0], dtype=torch.float32)
    spread[mask] = torch.tensor(flat, dtype=torch.float32)
    return spread.to(device)
