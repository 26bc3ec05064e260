"""Traces as token sequences, which of them a step uses, and their packing into micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import InitVar, dataclass

import torch
from transformers import PreTrainedTokenizerBase

from vibelite.data.chat import trace_ids
from vibelite.recipe.data_section import Data
from vibelite.types import TokenBatch, Trace


def indices_for_step(num_items: int, batch_size: int, step: int, *, seed: int) -> list[int]:
    """Indices below `num_items` for the 0-based `step`: epochs are permutations."""
    if num_items < 1:
        raise ValueError("there is nothing to draw from")
    permutations: dict[int, list[int]] = {}
    indices = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        epoch, offset = divmod(position, num_items)
        if epoch not in permutations:
            generator = torch.Generator().manual_seed((seed + 1_000_003 * epoch) % 2**63)
            permutations[epoch] = torch.randperm(num_items, generator=generator).tolist()
        indices.append(permutations[epoch][offset])
    return indices


@dataclass(frozen=True, slots=True)
class TrainingSequence:
    """Token ids [T], of which the first `num_prompt_tokens` (at least 1) are not trained on; they
    may be told by a `completion_mask` [T] instead, False for each of them.

    `token_weight` is the weight of each trained token in the step's loss; `advantage` and
    `sampler_logprobs` [num_trained] are for reinforcement learning.
    """

    token_ids: Sequence[int]
    num_prompt_tokens: int = 0
    token_weight: float = 1.0
    advantage: float = 0.0
    sampler_logprobs: Sequence[float] = ()
    completion_mask: InitVar[Sequence[bool] | None] = None

    def __post_init__(self, completion_mask: Sequence[bool] | None) -> None:
        if completion_mask is not None:
            object.__setattr__(self, "num_prompt_tokens", list(completion_mask).index(True))

    @property
    def num_trained(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens


def tokenize_traces(
    tokenizer: PreTrainedTokenizerBase,
    traces: Sequence[Trace],
    *,
    chat: Data,
    max_tokens: int,
) -> list[TrainingSequence]:
    """The traces as training sequences; those longer than `max_tokens` are dropped."""
    sequences = [
        TrainingSequence(*trace_ids(tokenizer, trace.messages, chat, row=trace.problem_id))
        for trace in traces
    ]
    return [sequence for sequence in sequences if len(sequence.token_ids) <= max_tokens]


def split_by_tokens(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices by micro-batch, longest first: at most `budget` tokens, or one longer sequence."""
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
    """The sequences of each rank, in order: longest first, to the rank that has fewest tokens."""
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
    boundaries = [0]
    for sequence in sequences:
        assert sequence.num_prompt_tokens > 0, "the first token of a sequence has no log-prob"
        token_ids.extend(sequence.token_ids)
        positions.extend(range(len(sequence.token_ids)))
        boundaries.append(len(token_ids))
    position_ids = torch.tensor(positions, dtype=torch.long)
    lengths = torch.tensor(boundaries).diff()

    def spread(values: Sequence[float]) -> torch.Tensor:  # [N], each on its sequence's tokens
        return torch.repeat_interleave(torch.tensor(values, dtype=torch.float32), lengths)

    completion_mask = position_ids >= spread([s.num_prompt_tokens for s in sequences])
    return TokenBatch(
        input_ids=torch.tensor(token_ids, dtype=torch.long, device=device),
        position_ids=position_ids.to(device),
        cu_seqlens=torch.tensor(boundaries, dtype=torch.int32, device=device),
        completion_mask=completion_mask.to(device),
        token_weights=(spread([s.token_weight for s in sequences]) * completion_mask).to(device),
        advantages=(spread([s.advantage for s in sequences]) * completion_mask).to(device),
        sampler_logprobs=_sampler_logprobs(sequences, completion_mask, device),
    )


def _sampler_logprobs(
    sequences: Sequence[TrainingSequence], mask: torch.Tensor, device: torch.device
) -> torch.Tensor | None:
    if not any(sequence.sampler_logprobs for sequence in sequences):
        return None
    flat = [logprob for sequence in sequences for logprob in sequence.sampler_logprobs]
    spread = torch.zeros(mask.shape[0], dtype=torch.float32)
    spread[mask] = torch.tensor(flat, dtype=torch.float32)
    return spread.to(device)
