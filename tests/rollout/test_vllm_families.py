"""vLLM's own models of other families sample from the trainer's distribution: make test-vllm."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.models.families import random_model
from tests.policies import tiny_policy
from tests.rollout.engines import PROMPTS, vllm_engine
from vibelite.data.batching import TrainingSequence, pack
from vibelite.models.policy import Policy
from vibelite.rollout.engine import SamplingSettings, generate

pytestmark = pytest.mark.vllm


# vLLM's attention on a CPU takes heads of 32 numbers and more.
@pytest.mark.parametrize("family", ["Qwen3", "Granite", "Gemma2", "Cohere2"])
def test_log_probs_are_those_of_the_trainer(family: str) -> None:
    """To 1e-3 nats, with an ordinary head, a softcap and two kinds of scale. The window of Cohere2
    is longer than the texts: vLLM's reaches one token further than transformers'.
    """
    sizes: dict[str, Any] = {"hidden_size": 128, "head_dim": 32}
    if family == "Cohere2":
        sizes["sliding_window"] = 64
    policy = Policy(random_model(family, **sizes), tiny_policy().tokenizer)
    engine = vllm_engine(policy, stop_ids=(2,))
    try:
        groups = generate(engine, PROMPTS, SamplingSettings(4, 24, temperature=0.9), seed=1)
        sequences = [
            TrainingSequence(
                (*prompt, *c.token_ids), len(prompt), sampler_logprobs=c.sampler_logprobs
            )
            for prompt, group in zip(PROMPTS, groups, strict=True)
            for c in group
        ]
        batch = pack(sequences, torch.device("cpu"))
        assert batch.sampler_logprobs is not None
        sampled = batch.sampler_logprobs[batch.completion_mask]
        own, _ = policy.logprobs(batch, temperature=0.9)
        assert len(own) > 100
        assert (own - sampled).abs().max() < 1e-3
    finally:
        engine.close()
