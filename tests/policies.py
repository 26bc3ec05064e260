"""Small policies that tests share."""

from collections.abc import Sequence
from typing import Any

import torch

from vibelite.data.batching import TrainingSequence
from vibelite.models.attention import ATTENTION
from vibelite.models.policy import Policy
from vibelite.models.tiny import build_model, build_tokenizer
from vibelite.recipe.model_section import TinyModel

TEXTS = [
    "What is 3 + 4? 3 + 4 = 7",
    "gcd of 12 and 18: 18 - 12 = 6",
    "angles 60 and 70 leave 50",
] * 4


def tiny_policy(seed: int = 0, **sizes: int) -> Policy:
    """A random policy of two layers (about 60k parameters), in float32."""
    defaults = {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "mlp_size": 64,
    }
    config = TinyModel(source="tiny", vocab_size=300, **(defaults | sizes))
    tokenizer = build_tokenizer(TEXTS, config.vocab_size)
    model = build_model(config, tokenizer, seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # far enough from uniform that mistakes show
    model.set_attn_implementation(ATTENTION)
    return Policy(model, tokenizer)


def random_sequences(
    num_sequences: int, *, seed: int = 0, longest: int = 24
) -> list[TrainingSequence]:
    """Sequences of random tokens and lengths, trained on from a random position."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    sequences = []
    for index in range(num_sequences):
        length = draw(2, longest + 1)
        prompt_length = draw(1, length)
        tokens = [draw(6, 280) for _ in range(length)]
        sampler_logprobs = [-draw(1, 600) / 100 for _ in range(length - prompt_length)]
        sequences.append(
            TrainingSequence(
                tokens, prompt_length, 1 / (index + 2), draw(-9, 10) / 5, sampler_logprobs
            )
        )
    return sequences


def full_logits(model: Any, token_ids: Sequence[int]) -> torch.Tensor:
    """All logits [T, V] of one sequence, from a model's own forward pass."""
    return model(input_ids=torch.tensor([list(token_ids)])).logits[0]
