"""Engines over a small random policy, as tests of several files build them."""

from __future__ import annotations

from typing import Any

import torch

from tests.policies import tiny_policy
from vibelite.models.load import default_device
from vibelite.models.policy import Policy
from vibelite.rollout.vllm_engine import VLLMEngine
from vibelite.rollout.vllm_start import VLLMSettings

STOP_IDS = (40, 41, 42, 43, 44)
PROMPTS = [[10, 11, 12], [20, 21, 22, 23, 24, 25, 26, 27], [30]]


def policy_for_vllm(**sizes: int) -> Policy:
    """A random policy with heads of 32 numbers, the smallest that vLLM's CPU attention takes, on
    the device where vLLM runs.
    """
    policy = tiny_policy(**({"hidden_size": 128} | sizes))
    torch.nn.Module.to(policy.model, default_device())
    return policy


def vllm_engine(policy: Policy, **changes: Any) -> VLLMEngine:
    settings = {
        "stop_ids": STOP_IDS,
        "max_sequences": 256,
        "max_model_len": 128,
        "kv_cache_bytes": 16 << 20,
        "dtype": "float32",
    }
    return VLLMEngine(policy, VLLMSettings(**(settings | changes)))
