"""Policies with random weights and packed batches of random tokens, for measurements in which only
sizes matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from vibelite.data.batching import TrainingSequence, pack
from vibelite.models.attention import ATTENTION
from vibelite.models.policy import Policy
from vibelite.stages.sft import weighted_nll
from vibelite.types import TokenBatch


def random_policy(
    config: Mapping[str, Any], *, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> Policy:
    """A Qwen2 model of these sizes, without a tokenizer; weights from a fixed seed, on `device`
    from the start.
    """
    default = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = Qwen2ForCausalLM(Qwen2Config(**config))
    finally:
        torch.set_default_dtype(default)
    model.set_attn_implementation(ATTENTION)
    return Policy(model.eval(), cast(Any, None))


def random_batch(
    lengths: list[int], vocab_size: int, *, trained_share: float, device: torch.device | str = "cpu"
) -> TokenBatch:
    """Sequences of these lengths end to end; the last `trained_share` of each is trained on."""
    generator = torch.Generator().manual_seed(0)
    sequences = []
    for length in lengths:
        trained = min(length - 1, max(1, int(length * trained_share)))
        tokens = torch.randint(vocab_size, (length,), generator=generator).tolist()
        sequences.append(TrainingSequence(tokens, length - trained, 1 / sum(lengths)))
    return pack(sequences, torch.device(device))


def train(policy: Policy, batch: TokenBatch) -> None:
    """Forward and backward of one micro-batch, as supervised fine-tuning runs them."""
    weights = batch.token_weights[batch.completion_mask]
    policy.token_loss(batch, partial(weighted_nll, weights)).loss.backward()
