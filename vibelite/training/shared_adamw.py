"""AdamW over several ranks, each of which updates its rows of float32 masters; masters and moments
exist once over all ranks. Two ways to hold the weights that the masters are rounded to:

`WholeWeightsAdamW`  every rank has them whole, as ordinary tensors, which vLLM can share and which
                     no forward pass waits for: a reduce-scatter of gradients and an all-gather of
                     weights an update.
`CutWeightsAdamW`    FSDP2 has them in pieces (`ranks/full_sharding.py`), where whole weights and
                     gradients would not fit.

Torch's ZeroRedundancyOptimizer shards states by whole parameters and keeps no float32 masters of
16-bit weights, so it is no third one.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch

from vibelite.models.policy import Policy
from vibelite.ranks.full_sharding import FullyShardedPolicy
from vibelite.ranks.world import World, rows_of
from vibelite.recipe.stage_section import Optimizer
from vibelite.training.clip import buckets
from vibelite.training.device_update import Update, fused_adamw

MOMENTS = ("exp_avg", "exp_avg_sq")


class SharedAdamW(Update):
    """AdamW over this rank's rows of the parameters."""

    def __init__(
        self,
        policy: Policy,
        parameters: list[torch.nn.Parameter],
        masters: list[torch.Tensor],
        config: Optimizer,
        world: World,
    ) -> None:
        """`masters`: float32 rows of the parameters."""
        super().__init__(parameters)
        self._policy = policy
        self._masters = masters
        self._world = world
        self._peak_lr = config.lr
        self._optimizer = fused_adamw(masters, config)
        for master in masters:  # as torch's first step makes them, for a state to be read into
            self._optimizer.state[master] = {
                "step": torch.zeros((), dtype=torch.float32, device=master.device),
                **{name: torch.zeros_like(master) for name in MOMENTS},
            }

    @abstractmethod
    def _write_weights(self) -> None:
        """From the masters, at the latest in `finish`."""

    def drop_gradients(self) -> None:
        for parameter, master in zip(self.parameters, self._masters, strict=True):
            parameter.grad = None
            master.grad = None

    @torch.no_grad()
    def apply(self, gradient_factor: float, lr_scale: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self._peak_lr * lr_scale
        if gradient_factor != 1.0:
            for master in self._masters:
                if master.grad is not None:
                    master.grad.mul_(gradient_factor)
        self._optimizer.step()
        self.drop_gradients()
        self._write_weights()

    def state_dict(self) -> dict[str, Any]:
        """As that of `DeviceUpdate`, with tensors cut over the ranks that share memory with the
        optimizer's: a state is read in place.
        """
        state = {
            index: {
                name: self._cut(value, index) if name in MOMENTS else value
                for name, value in self._optimizer.state[master].items()
            }
            for index, master in enumerate(self._masters)
        }
        masters = {index: self._cut(self._masters[index], index) for index in self.narrow()}
        return {"state": state, "masters": masters}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes a `state_dict` of this optimizer that was filled in place."""
        own, whole = self.narrow(), list(self._policy.trainable_parameters())
        for index, master in enumerate(self._masters):
            if index not in own:
                master.copy_(rows_of(whole[index], self._world.num_ranks, self._world.rank))
        self._write_weights()

    def _cut(self, rows: torch.Tensor, index: int) -> torch.Tensor:
        return self._world.as_dtensor(rows, self.parameters[index].shape)


class WholeWeightsAdamW(SharedAdamW):
    """Each rank sums and updates its rows of parameters that all ranks have."""

    def __init__(
        self, policy: Policy, config: Optimizer, gradient_dtype: torch.dtype, world: World
    ) -> None:
        parameters = list(policy.trainable_parameters())
        for parameter in parameters:
            # Autograd casts what arrives and sums micro-batches in this type.
            parameter.grad_dtype = gradient_dtype
        self._gradient_dtype = gradient_dtype
        rows = [rows_of(p.detach(), world.num_ranks, world.rank) for p in parameters]
        masters = [part.to(torch.float32, copy=True) for part in rows]
        super().__init__(policy, parameters, masters, config, world)

    @torch.no_grad()
    def gradients(self) -> list[torch.Tensor]:
        """Sums and takes them. A parameter without one on any rank is left out; one without one
        here counts as 0.
        """
        self._world.barrier("the slowest rank's gradients")
        present = self._world.any_of([p.grad is not None for p in self.parameters])
        used = [index for index, is_present in enumerate(present) if is_present]
        summed = []
        for bucket in buckets(self.parameters[index].numel() for index in used):
            indices = [used[place] for place in bucket]
            parts = self._world.sum_to_rows([self._gradient_of(index) for index in indices])
            for index, part in zip(indices, parts, strict=True):
                self.parameters[index].grad = None
                self._masters[index].grad = part.to(torch.float32)
                summed.append(self._masters[index].grad)
        return summed

    def _gradient_of(self, index: int) -> torch.Tensor:
        parameter = self.parameters[index]
        if parameter.grad is not None:
            return parameter.grad
        return torch.zeros_like(parameter, dtype=self._gradient_dtype)

    @torch.no_grad()
    def _write_weights(self) -> None:
        """Every parameter from everyone's masters, rounded to its type."""
        kinds = dict.fromkeys(parameter.dtype for parameter in self.parameters)
        for dtype in kinds:
            indices = [i for i, p in enumerate(self.parameters) if p.dtype == dtype]
            for bucket in buckets(self.parameters[index].numel() for index in indices):
                chosen = [indices[place] for place in bucket]
                self._world.gather_rows(
                    [self._masters[index].to(dtype) for index in chosen],
                    [self.parameters[index].detach() for index in chosen],
                )


class CutWeightsAdamW(SharedAdamW):
    """The masters are FSDP's pieces."""

    def __init__(self, policy: FullyShardedPolicy, config: Optimizer) -> None:
        self._sharded = policy
        masters = [master.to_local().detach() for master in policy.masters]
        super().__init__(policy, list(policy.masters), masters, config, policy.world)

    def narrow(self) -> list[int]:
        """By the type of the whole weights: the pieces are the masters."""
        is_narrow = self._sharded.head.weight.dtype != torch.float32
        return list(range(len(self._masters))) if is_narrow else []

    def gradients(self) -> list[torch.Tensor]:
        for part, master in zip(self._masters, self.parameters, strict=True):
            part.grad = None if master.grad is None else master.grad.to_local()  # pyright: ignore
        return [part.grad for part in self._masters if part.grad is not None]

    def finish(self) -> None:
        self._sharded.gather()

    def _write_weights(self) -> None:
        """`finish` does: the pieces are the weights."""
