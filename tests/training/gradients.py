"""Policies, and gradients that tests set by hand."""

from collections.abc import Iterable

import torch

from tests.policies import tiny_policy
from vibelite.models.policy import Policy
from vibelite.training.optim import PolicyOptimizer


def policy_in(dtype: str, seed: int = 0) -> Policy:
    policy = tiny_policy(seed)
    policy.model.to(getattr(torch, dtype))
    return policy


def set_gradients(policy: Policy, seed: int, *, scale: float = 1.0) -> None:
    """Random gradients times `scale`, in the types in which the optimizer sums them."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in policy.trainable_parameters():
        values = torch.randn(parameter.shape, generator=generator) * scale
        parameter.grad = values.to(parameter.device, parameter.grad_dtype)


def train(policy: Policy, optimizer: PolicyOptimizer, steps: Iterable[int]) -> dict[str, float]:
    """Updates from gradients that belong to their step; the metrics of the last."""
    metrics = {}
    for step in steps:
        set_gradients(policy, step)
        metrics = optimizer.step(step)
        optimizer.finish()
    return metrics


def weights_of(policy: Policy) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in policy.trainable_parameters()]
