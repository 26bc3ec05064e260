"""Weights, gradients and masters cut over the ranks (FSDP2), for models whose whole weights and
gradients would fill a GPU. Their update: `training/shared_adamw.py`.

They are in pieces from the first backward pass of a step to `finish`. At all other times every rank
has the weights whole, so that sampling, saving and engines find ordinary tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from transformers.modeling_layers import GradientCheckpointingLayer

from vibelite.errors import RecipeError
from vibelite.kernels import PerTokenLoss, TokenLoss
from vibelite.models.policy import Policy
from vibelite.ranks.world import World, all_gather, reduce_scatter
from vibelite.types import TokenBatch

T = TypeVar("T")


class Scope(torch.nn.Module):
    """Keeps embedding, last norm and head whole while a loss is computed, as the head is used
    outside the model's own forward.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, compute: Callable[[], T]) -> T:
        return compute()


@dataclass(frozen=True, slots=True, kw_only=True)
class FullyShardedPolicy(Policy):
    """A policy whose weights are in pieces while it is trained; else as any other."""

    world: World
    masters: tuple[Any, ...]
    """The pieces, float32, one for each parameter in order; their gradients arrive here."""
    sharded: tuple[Any, ...]
    """The modules that FSDP gathers, the scope last."""

    def token_loss(
        self, batch: TokenBatch, per_token_loss: PerTokenLoss, *, temperature: float = 1.0
    ) -> TokenLoss:
        """As `Policy.token_loss`; within `accumulating`, by all ranks at once."""
        compute = partial(Policy.token_loss, self, batch, per_token_loss, temperature=temperature)
        return self.sharded[-1](compute)

    @contextmanager
    def accumulating(self, num_micro_batches: int) -> Iterator[None]:
        """Around the backward passes of one step. Ranks with fewer of them add empty ones, as each
        gathers layers that all ranks hold.
        """
        most = max(self.world.gather(num_micro_batches))
        for module in self.sharded:
            module.set_reshard_after_forward(module is not self.sharded[-1], recurse=False)
            module.reshard()
        yield
        for _ in range(most - num_micro_batches):
            empty = empty_batch(self.device)
            self.token_loss(empty, lambda logprobs, entropy, rows: logprobs * 0).loss.backward()

    def gather(self) -> None:
        """Returns when this rank has the whole weights; called by all ranks."""
        for module in self.sharded:
            module.set_reshard_after_forward(False, recurse=False)
            module.unshard()

    def weights(self) -> dict[str, torch.Tensor]:
        """The whole ones, which FSDP's own state would cut again."""
        return dict(self.model.named_parameters(remove_duplicate=False))


def fully_sharded(
    policy: Policy, world: World, *, dtype: torch.dtype, gradient_dtype: torch.dtype
) -> FullyShardedPolicy:
    """Cuts the policy's weights over the ranks, in place: a layer that runs is whole in `dtype`;
    ranks sum gradients in `gradient_dtype`. RecipeError for an adapter or unknown layers.
    """
    layers = [m for m in policy.model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if policy.adapter is not None or not layers or not policy.is_packed:
        raise RecipeError(
            "parallel.sharding: full cuts the weights of transformers' decoder models that are "
            "trained whole, not under an adapter nor one sequence at a time; use "
            "parallel.sharding: optimizer"
        )
    scope = Scope(policy.model)
    names = [f"layer {number}" for number in range(len(layers))] + ["the model outside its layers"]
    types = MixedPrecisionPolicy(dtype, gradient_dtype, cast_forward_inputs=False)
    for module, name in zip((*layers, scope), names, strict=True):
        module.to(torch.float32)  # the pieces are the masters
        cut = fully_shard(module, mesh=world.mesh, mp_policy=types)
        cut.set_gradient_divide_factor(1.0)
        cut.set_force_sum_reduction_for_comms(True)  # gloo knows no factor
        gather = _Exchange(world, "all_gather", all_gather, f"the weights of {name}")
        scatter = _Exchange(world, "reduce_scatter", reduce_scatter, f"the gradients of {name}")
        cut.set_custom_all_gather(gather)  # pyright: ignore[reportArgumentType]
        cut.set_custom_reduce_scatter(scatter)  # pyright: ignore[reportArgumentType]
    fix_backward_order([*layers, scope])
    masters = tuple(policy.model.parameters())
    scope(lambda: None)  # FSDP takes the first module that runs for the one that holds all
    modules = (*layers, scope)
    cut_policy = FullyShardedPolicy(
        policy.model, policy.tokenizer, world=world, masters=masters, sharded=modules
    )
    cut_policy.gather()
    return cut_policy


@dataclass(frozen=True, slots=True)
class _Exchange:
    """A collective as FSDP calls it, counted, and known to the watchdog."""

    world: World
    name: str
    collective: Callable[..., Any]
    what: str

    def allocate(
        self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: torch.Tensor, input_tensor: torch.Tensor, **settings: Any
    ) -> Any:
        self.world.count(self.name, max(output_tensor, input_tensor, key=torch.Tensor.numel))
        with self.world.exchanging(self.what):
            return self.collective(output_tensor, input_tensor, **settings)


def fix_backward_order(modules: Sequence[Any]) -> None:
    """Each module (in the order of a forward pass, the one that holds all last) gathers the one
    before it ahead of its turn in the backward pass.

    By itself FSDP goes by the rank's forward passes since its last backward pass. Sampling is such
    passes, and not all ranks sample in a step: they would wait in different exchanges.
    """
    *layers, scope = modules
    for module, before in zip(layers, [scope, *layers], strict=False):
        module.set_modules_to_backward_prefetch([before])  # the first: already whole, nothing
    scope.set_modules_to_backward_prefetch([layers[-1]])


def empty_batch(device: torch.device) -> TokenBatch:
    """Two tokens, for a pass that adds nothing."""
    zeros = torch.zeros(2, device=device)
    return TokenBatch(
        input_ids=zeros.long(),
        position_ids=torch.arange(2, device=device),
        cu_seqlens=torch.tensor([0, 2], dtype=torch.int32, device=device),
        completion_mask=torch.tensor([False, True], device=device),
        token_weights=zeros,
        advantages=zeros,
    )
