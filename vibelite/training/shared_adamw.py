"""What AdamW over several ranks has in common, however weights are cut: each rank updates its parts
of float32 masters, and masters and moments exist once over all ranks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch

from vibelite.recipe.stage_section import Optimizer
from vibelite.training.parallel import World

MOMENTS = ("exp_avg", "exp_avg_sq")
Layout = Literal["flat", "rows"]


class SharedAdamW(ABC):
    """AdamW over this rank's parts of the parameters."""

    layout: Layout
    """flat: saved as flat tensors, of which parts are equal shares; rows: with their own shapes,
    cut by rows."""

    def __init__(
        self,
        masters: list[torch.Tensor],
        shapes: list[torch.Size],
        is_own: list[bool],
        config: Optimizer,
        world: World,
    ) -> None:
        """`masters`: float32 parts of tensors of `shapes`; `is_own`: which say more than the
        weights, whose type is narrower.
        """
        self._masters = masters
        self._shapes = shapes
        self._own = [index for index, own in enumerate(is_own) if own]
        self._world = world
        self._peak_lr = config.lr
        self._optimizer = torch.optim.AdamW(
            masters,
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
        )

    @abstractmethod
    def gradients(self) -> list[torch.Tensor]:
        """This rank's parts of the gradients, summed over all ranks, float32."""

    @abstractmethod
    def drop_gradients(self) -> None: ...

    @abstractmethod
    def finish(self) -> None:
        """Returns when all ranks have the whole weights."""

    @abstractmethod
    def _write_weights(self) -> None:
        """From the masters."""

    @abstractmethod
    def _read_weights(self) -> None:
        """The masters from the weights."""

    @abstractmethod
    def _part_of(self, tensor: torch.Tensor, index: int) -> torch.Tensor:
        """This rank's part of a whole tensor, flat or not, that belongs to parameter `index`."""

    @abstractmethod
    def _whole(self, part: torch.Tensor, index: int) -> torch.Tensor:
        """A part as one of a tensor that all ranks hold together."""

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
        """As that of `DeviceUpdate`, with tensors that are cut over the ranks."""
        state = {
            index: {"step": self._step_of(index)}
            | {name: self._whole(self._moment(index, name), index) for name in MOMENTS}
            for index in range(len(self._masters))
        }
        masters = [self._whole(self._masters[index], index) for index in self._own]
        return {"optimizers": [{"state": state}], "masters": masters}

    def state_to_fill(self, layout: Layout) -> dict[str, Any]:
        """What was saved in its own layout fills the state itself; another's comes whole."""
        if layout == self.layout:
            return self.state_dict()
        return empty_state(self._shapes, self._own, layout)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From whole tensors of any shape, or from a filled `state_to_fill`; the weights are in
        place.
        """
        (saved,) = state["optimizers"]
        for index, values in saved["state"].items():
            for name in MOMENTS:
                self._fill(self._moment(index, name), values[name], index)
            self._optimizer.state[self._masters[index]]["step"] = values["step"].clone()
        self._read_weights()
        for index, values in zip(self._own, state["masters"], strict=True):
            self._fill(self._masters[index], values, index)
        self._write_weights()

    def _fill(self, part: torch.Tensor, values: torch.Tensor, index: int) -> None:
        """`part` from a whole tensor; one cut over the ranks shares its memory already."""
        if not hasattr(values, "to_local"):
            part.copy_(self._part_of(values.to(part.device), index))

    def _moment(self, index: int, name: str) -> torch.Tensor:
        """This rank's part of a moment; 0 before the first update."""
        state = self._optimizer.state[self._masters[index]]
        if name not in state:
            state[name] = torch.zeros_like(self._masters[index])
        return state[name]

    def _step_of(self, index: int) -> torch.Tensor:
        state = self._optimizer.state[self._masters[index]]
        if "step" not in state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=self._masters[index].device)
        return state["step"]


def empty_state(
    shapes: Sequence[torch.Size], own_masters: Sequence[int], layout: Layout
) -> dict[str, Any]:
    """AdamW's state of whole tensors on the host, as ranks save theirs in `layout`, to be
    filled.
    """

    def empty(index: int) -> torch.Tensor:
        shape = shapes[index]
        return torch.empty(shape if layout == "rows" else shape.numel())

    state = {
        index: {"step": torch.zeros(())} | {name: empty(index) for name in MOMENTS}
        for index in range(len(shapes))
    }
    return {"optimizers": [{"state": state}], "masters": [empty(index) for index in own_masters]}
