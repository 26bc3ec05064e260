"""Weights, gradients and optimizer cut over the ranks (FSDP2), for models whose whole weights and
gradients would fill a GPU.

Between the first backward pass of a step and `finish` the weights are in pieces, and each layer's
are gathered while it runs. At all other times every rank has them whole, so that sampling, saving
and engines find ordinary tensors and no rank waits for another there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from vibelite.errors import RecipeError
from vibelite.kernels.fused_loss import PerTokenLoss, TokenLoss
from vibelite.models.policy import Policy
from vibelite.recipe.model_section import Training
from vibelite.recipe.stage_section import Optimizer
from vibelite.training.parallel import World
from vibelite.training.precision import DTYPES
from vibelite.training.shared_adamw import SharedAdamW
from vibelite.training.shares import rows_of
from vibelite.types import TokenBatch

T = TypeVar("T")


class Scope(torch.nn.Module):
    """The module that holds a model while its loss is computed, as the head is used outside the
    model's own forward: embedding, last norm and head are whole as long as this runs.
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
    scope: Scope
    masters: tuple[Any, ...]
    """The pieces, float32, one for each parameter in order; their gradients arrive here."""
    sharded: tuple[Any, ...]
    """The modules that FSDP gathers, the scope last."""

    def token_loss(
        self, batch: TokenBatch, per_token_loss: PerTokenLoss, *, temperature: float = 1.0
    ) -> TokenLoss:
        """As `Policy.token_loss`; within `accumulating`, by all ranks at once."""
        compute = partial(Policy.token_loss, self, batch, per_token_loss, temperature=temperature)
        return self.scope(compute)

    @contextmanager
    def accumulating(self, num_micro_batches: int) -> Iterator[None]:
        """Around the backward passes of one step on this rank. Ranks with fewer of them follow the
        others through empty ones, as each gathers layers that all ranks hold.
        """
        most = max(self.world.gather(num_micro_batches))
        for module in self.sharded:
            module.set_reshard_after_forward(module is not self.scope, recurse=False)
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

    def save(self, directory: Path) -> None:
        """As `Policy.save`, of the whole weights, which FSDP's own state would cut again."""
        weights = dict(self.model.named_parameters(remove_duplicate=False))
        self.model.save_pretrained(directory, state_dict=weights)
        self.tokenizer.save_pretrained(directory)


def fully_sharded(policy: Policy, training: Training, world: World) -> FullyShardedPolicy:
    """Cuts the policy's weights over the ranks, in place. RecipeError for an adapter, and for a
    model whose layers are unknown.
    """
    layers = [m for m in policy.model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if policy.adapter is not None or not layers:
        raise RecipeError(
            "parallel.sharding: full cuts the weights of transformers' decoder models that are "
            "trained whole, not under an adapter; use parallel.sharding: optimizer"
        )
    scope = Scope(policy.model)
    names = [f"layer {number}" for number in range(len(layers))] + ["the model outside its layers"]
    for module, name in zip((*layers, scope), names, strict=True):
        module.to(torch.float32)  # the pieces are the masters
        world.fully_shard(module, name, DTYPES[training.dtype], DTYPES[training.gradient_dtype])
    fix_backward_order([*layers, scope])
    masters = tuple(policy.model.parameters())
    scope(lambda: None)  # FSDP takes the first module that runs for the one that holds all
    sharded = FullyShardedPolicy(
        policy.model, policy.tokenizer, world=world, scope=scope, masters=masters,
        sharded=(*layers, scope),
    )  # fmt: skip
    sharded.gather()
    return sharded


def fix_backward_order(modules: Sequence[Any]) -> None:
    """Each module (FSDP's, in the order of a forward pass, the one that holds all last) gathers the
    one before it ahead of its turn in the backward pass.

    By itself FSDP goes by the forward passes that the rank has run since its last backward pass,
    and sampling is such passes: of a rank that sampled in the step the first layer would gather
    another layer ahead, of a rank that did not it would not, and the ranks would wait for each
    other in different exchanges.
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


class FullyShardedAdamW(SharedAdamW):
    """AdamW over the rows of each parameter that this rank holds."""

    layout = "rows"

    def __init__(self, policy: FullyShardedPolicy, config: Optimizer) -> None:
        self._policy = policy
        is_own = policy.head.dtype != torch.float32
        super().__init__(
            [master.to_local().detach() for master in policy.masters],
            [master.shape for master in policy.masters],
            [is_own for _ in policy.masters],
            config,
            policy.world,
        )

    def gradients(self) -> list[torch.Tensor]:
        """This rank's rows of the gradients, summed over all ranks, float32."""
        for part, master in zip(self._masters, self._policy.masters, strict=True):
            part.grad = None if master.grad is None else master.grad.to_local()
        return [part.grad for part in self._masters if part.grad is not None]

    def drop_gradients(self) -> None:
        for part, master in zip(self._masters, self._policy.masters, strict=True):
            part.grad = None
            master.grad = None

    def finish(self) -> None:
        self._policy.gather()

    def _write_weights(self) -> None:
        """`finish` does: the parts are the weights."""

    def _read_weights(self) -> None:
        for index, weight in enumerate(self._policy.model.parameters()):
            self._masters[index].copy_(self._part_of(weight.detach(), index))

    def _part_of(self, tensor: torch.Tensor, index: int) -> torch.Tensor:
        whole = tensor.view(self._shapes[index])
        return rows_of(whole, self._world.num_ranks, self._world.rank)

    def _whole(self, part: torch.Tensor, index: int) -> torch.Tensor:
        return self._world.as_dtensor(part, self._shapes[index])
