"""AdamW over several ranks: each sums and updates its share of the parameters, of which all hold
the whole weights.

An update is a reduce-scatter of the gradients and an all-gather of the new weights; masters and
moments exist once over all ranks. The weights stay ordinary tensors, which the fused head,
adapters and engines use as in a single process, and no forward pass waits for another rank.
"""

from __future__ import annotations

from typing import Any

import torch

from vibelite.recipe.stage_section import Optimizer
from vibelite.training.gradients import buckets
from vibelite.training.parallel import World

MOMENTS = ("exp_avg", "exp_avg_sq")


class ShardedAdamW:
    """Each rank's share of AdamW's state and of the update; float32 masters."""

    def __init__(
        self,
        parameters: list[torch.nn.Parameter],
        config: Optimizer,
        gradient_dtype: torch.dtype,
        world: World,
    ) -> None:
        self.parameters = parameters
        self._world = world
        self._peak_lr = config.lr
        for parameter in parameters:
            # Autograd casts what arrives and sums micro-batches in this type.
            parameter.grad_dtype = gradient_dtype
        self._gradient_dtype = gradient_dtype
        self._masters = [self._share_of(parameter) for parameter in parameters]
        self._optimizer = torch.optim.AdamW(
            self._masters,
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self._shares: list[torch.Tensor] = []

    def _share_of(self, tensor: torch.Tensor) -> torch.Tensor:
        return self._world.share_of(tensor.detach()).to(torch.float32)

    @torch.no_grad()
    def gradients(self) -> list[torch.Tensor]:
        """This rank's shares of the gradients, summed over all ranks, float32; takes the gradients.

        A parameter without one on any rank is left out; one without one here counts as 0.
        """
        self._world.barrier("the slowest rank's gradients")
        present = self._world.any_of([p.grad is not None for p in self.parameters])
        used = [index for index, is_present in enumerate(present) if is_present]
        self._shares = []
        for bucket in buckets(self.parameters[index].numel() for index in used):
            indices = [used[place] for place in bucket]
            shares = self._world.sum_to_shards([self._gradient_of(index) for index in indices])
            for index, share in zip(indices, shares, strict=True):
                self.parameters[index].grad = None
                share = share.to(torch.float32)
                self._masters[index].grad = share
                self._shares.append(share)
        return self._shares

    def _gradient_of(self, index: int) -> torch.Tensor:
        parameter = self.parameters[index]
        if parameter.grad is not None:
            return parameter.grad
        return torch.zeros_like(parameter, dtype=self._gradient_dtype)

    def drop_gradients(self) -> None:
        self._shares = []
        for parameter, master in zip(self.parameters, self._masters, strict=True):
            parameter.grad = None
            master.grad = None

    @torch.no_grad()
    def apply(self, gradient_factor: float, lr_scale: float) -> None:
        """One update from the shares of `gradients` times `gradient_factor`; drops them."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._peak_lr * lr_scale
        if gradient_factor != 1.0:
            for share in self._shares:
                share.mul_(gradient_factor)
        self._optimizer.step()
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
                self._world.whole(
                    [self._masters[index].to(dtype) for index in chosen],
                    [self.parameters[index].detach() for index in chosen],
                )

    def exchange_only(self) -> None:
        """What an update sends and receives, without updating; for measurements."""
        self.gradients()
        self.drop_gradients()
        self._write_weights()

    def finish(self) -> None:
        """Nothing is left to wait for: the device does things in order."""

    def state_dict(self) -> dict[str, Any]:
        """As that of `DeviceUpdate`, with flat tensors, each cut over the ranks."""
        state = {
            index: {"step": self._step_of(index)}
            | {name: self._whole(index, self._moment(index, name)) for name in MOMENTS}
            for index in range(len(self.parameters))
        }
        masters = [self._whole(i, self._masters[i]) for i in self._own_masters()]
        return {"optimizers": [{"state": state}], "masters": masters}

    def flat_state(self) -> dict[str, Any]:
        """What is filled is the state itself."""
        return self.state_dict()

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From whole tensors of any shape, as a single process saves them, or from its own kind,
        into which `parallel.load_parts` has read already.
        """
        (saved,) = state["optimizers"]
        for index, values in saved["state"].items():
            for name in MOMENTS:
                self._fill(self._moment(index, name), values[name])
            self._optimizer.state[self._masters[index]]["step"] = values["step"].clone()
        for index, parameter in enumerate(self.parameters):
            self._masters[index].copy_(self._share_of(parameter))
        for index, values in zip(self._own_masters(), state["masters"], strict=True):
            self._fill(self._masters[index], values)
        self._write_weights()

    def _fill(self, share: torch.Tensor, values: torch.Tensor) -> None:
        """`share` from a whole tensor; one cut over the ranks shares its memory already."""
        if not hasattr(values, "to_local"):
            share.copy_(self._world.share_of(values.to(share.device)))

    def _whole(self, index: int, share: torch.Tensor) -> torch.Tensor:
        return self._world.as_dtensor(share, self.parameters[index].numel())

    def _moment(self, index: int, name: str) -> torch.Tensor:
        """The share of a moment; 0 before the first update."""
        state = self._optimizer.state[self._masters[index]]
        if name not in state:
            state[name] = torch.zeros_like(self._masters[index])
        return state[name]

    def _step_of(self, index: int) -> torch.Tensor:
        state = self._optimizer.state[self._masters[index]]
        if "step" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=self._masters[index].device)
        return state["step"]

    def _own_masters(self) -> list[int]:
        """Which masters say more than the weights."""
        return [i for i, p in enumerate(self.parameters) if p.dtype != torch.float32]
