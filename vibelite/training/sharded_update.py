"""AdamW over several ranks that all hold the whole weights: each sums and updates its share of
every parameter.

An update is a reduce-scatter of the gradients and an all-gather of the new weights. The weights
stay ordinary tensors, which the fused head, adapters and engines use as in a single process, and no
forward pass waits for another rank. For models that do not fit so: `full_sharding.py`.
"""

from __future__ import annotations

import torch

from vibelite.recipe.stage_section import Optimizer
from vibelite.training.gradients import buckets
from vibelite.training.parallel import World
from vibelite.training.shared_adamw import SharedAdamW
from vibelite.training.shares import share_length


class ShardedAdamW(SharedAdamW):
    """Each rank's share of AdamW's state and of the update; float32 masters."""

    layout = "flat"

    def __init__(
        self,
        parameters: list[torch.nn.Parameter],
        config: Optimizer,
        gradient_dtype: torch.dtype,
        world: World,
    ) -> None:
        self.parameters = parameters
        for parameter in parameters:
            # Autograd casts what arrives and sums micro-batches in this type.
            parameter.grad_dtype = gradient_dtype
        self._gradient_dtype = gradient_dtype
        super().__init__(
            [world.share_of(p.detach()).to(torch.float32) for p in parameters],
            [parameter.shape for parameter in parameters],
            [parameter.dtype != torch.float32 for parameter in parameters],
            config,
            world,
        )

    @torch.no_grad()
    def gradients(self) -> list[torch.Tensor]:
        """This rank's shares of the gradients, summed over all ranks, float32; takes the gradients.

        A parameter without one on any rank is left out; one without one here counts as 0.
        """
        self._world.barrier("the slowest rank's gradients")
        present = self._world.any_of([p.grad is not None for p in self.parameters])
        used = [index for index, is_present in enumerate(present) if is_present]
        summed = []
        for bucket in buckets(self.parameters[index].numel() for index in used):
            indices = [used[place] for place in bucket]
            shares = self._world.sum_to_shards([self._gradient_of(index) for index in indices])
            for index, share in zip(indices, shares, strict=True):
                self.parameters[index].grad = None
                self._masters[index].grad = share.to(torch.float32)
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
                self._world.whole(
                    [self._masters[index].to(dtype) for index in chosen],
                    [self.parameters[index].detach() for index in chosen],
                )

    def _read_weights(self) -> None:
        for index, parameter in enumerate(self.parameters):
            self._masters[index].copy_(self._part_of(parameter.detach(), index))

    def _part_of(self, tensor: torch.Tensor, index: int) -> torch.Tensor:
        return self._world.share_of(tensor)

    def _whole(self, part: torch.Tensor, index: int) -> torch.Tensor:
        numel, world = self._shapes[index].numel(), self._world
        length = share_length(numel, world.num_ranks, world.rank)
        return world.as_dtensor(part[:length], [numel])
