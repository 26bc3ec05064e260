"""Gradients that tests set by hand."""

import torch

from vibelite.models.policy import Policy


def set_gradients(policy: Policy, seed: int, *, scale: float = 1.0) -> None:
    """Random gradients times `scale`, in the types in which the optimizer sums them."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in policy.trainable_parameters():
        values = torch.randn(parameter.shape, generator=generator) * scale
        parameter.grad = values.to(parameter.device, parameter.grad_dtype)


def weights_of(policy: Policy) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in policy.trainable_parameters()]
