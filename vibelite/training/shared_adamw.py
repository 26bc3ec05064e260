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

from abc import ABC, abstractmethod
from typing import Any

import torch

from vibelite.ranks.cut import rows_of
from vibelite.ranks.full_sharding import FullyShardedPolicy
from vibelite.ranks.world import World
from vibelite.recipe.stage_section import Optimizer
from vibelite.training.clip import buckets

MOMENTS = ("exp_avg", "exp_avg_sq")


class SharedAdamW(ABC):
    """AdamW over this rank's rows of the parameters."""

    def __init__(
        self,
        parameters: list[torch.nn.Parameter],
        masters: list[torch.Tensor],
        own_masters: list[int],
        config: Optimizer,
        world: World,
    ) -> None:
        """`masters`: float32 rows of the parameters; `own_masters`: which of them say more than
        the weights, whose type is narrower.
        """
        self.parameters = parameters
        self._masters = masters
        self._own_masters = own_masters
        self._world = world
        self._peak_lr = config.lr
        self._optimizer = torch.optim.AdamW(
            masters,
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
        for master in masters:  # as torch's first step makes them, for a state to be read into
            self._optimizer.state[master] = {
                "step": torch.zeros((), dtype=torch.float32, device=master.device),
                **{name: torch.zeros_like(master) for name in MOMENTS},
            }

    @abstractmethod
    def gradients(self) -> list[torch.Tensor]:
        """This rank's rows of the gradients, summed over all ranks, float32."""

    @abstractmethod
    def drop_gradients(self) -> None: ...

    @abstractmethod
    def finish(self) -> None:
        """Returns when all ranks have the whole weights."""

    @abstractmethod
    def _write_weights(self) -> None:
        """From the masters, at the latest in `finish`."""

    @abstractmethod
    def _whole_weights(self) -> list[torch.Tensor]: ...

    @torch.no_grad()
    def apply(self, gradient_factor: float, lr_scale: float) -> None:
        """One update from the gradients in place times `gradient_factor`; drops them."""
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
        masters = {index: self._cut(self._masters[index], index) for index in self._own_masters}
        return {"state": state, "masters": masters}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes a `state_dict` of this optimizer that was filled in place, and the weights, which
        are in place too.
        """
        whole = self._whole_weights()
        for index, master in enumerate(self._masters):
            if index not in self._own_masters:
                master.copy_(rows_of(whole[index], self._world.num_ranks, self._world.rank))
        self._write_weights()

    def _cut(self, rows: torch.Tensor, index: int) -> torch.Tensor:
        return self._world.as_dtensor(rows, self.parameters[index].shape)


class WholeWeightsAdamW(SharedAdamW):
    """Each rank sums and updates its rows of parameters that all ranks have."""

    def __init__(
        self,
        parameters: list[torch.nn.Parameter],
        config: Optimizer,
        gradient_dtype: torch.dtype,
        world: World,
    ) -> None:
        for parameter in parameters:
            # Autograd casts what arrives and sums micro-batches in this type.
            parameter.grad_dtype = gradient_dtype
        self._gradient_dtype = gradient_dtype
        rows = [rows_of(p.detach(), world.num_ranks, world.rank) for p in parameters]
        masters = [part.to(torch.float32, copy=True) for part in rows]
        own_masters = [i for i, p in enumerate(parameters) if p.dtype != torch.float32]
        super().__init__(parameters, masters, own_masters, config, world)

    @torch.no_grad()
    def gradients(self) -> list[torch.Tensor]:
        """As promised; takes the gradients. A parameter without one on any rank is left out; one
        without one here counts as 0.
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

    def drop_gradients(self) -> None:
        for parameter, master in zip(self.parameters, self._masters, strict=True):
            parameter.grad = None
            master.grad = None

    def finish(self) -> None:
        """Nothing is left to wait for: the device does things in order."""

    def exchange_only(self) -> None:
        """What an update sends and receives, without updating; for measurements."""
        self.gradients()
        self.drop_gradients()
        self._write_weights()

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

    def _whole_weights(self) -> list[torch.Tensor]:
        return [parameter.detach() for parameter in self.parameters]


class CutWeightsAdamW(SharedAdamW):
    """The masters are FSDP's pieces; the weights are whole again after `finish`."""

    def __init__(self, policy: FullyShardedPolicy, config: Optimizer) -> None:
        self._policy = policy
        masters = [master.to_local().detach() for master in policy.masters]
        own_masters = list(range(len(masters))) if policy.head.weight.dtype != torch.float32 else []
        super().__init__(list(policy.masters), masters, own_masters, config, policy.world)

    def gradients(self) -> list[torch.Tensor]:
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
        """`finish` does: the pieces are the weights."""

    def _whole_weights(self) -> list[torch.Tensor]:
        return [weight.detach() for weight in self._policy.model.parameters()]
