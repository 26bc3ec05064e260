"""What every update does, and those on the device of the weights: AdamW, Muon, 8-bit AdamW."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vibelite.errors import RecipeError
from vibelite.hints import install
from vibelite.recipe.stage_section import Optimizer
from vibelite.training.clip import buckets
from vibelite.training.precision import float32_master

# Nesterov momentum 0.95 and five Newton-Schulz steps are Muon's published defaults.
MUON_MOMENTUM = 0.95


class Update(ABC):
    """Where gradients are summed and weights updated, from float32 masters."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        self.parameters = parameters

    @abstractmethod
    def gradients(self) -> list[torch.Tensor]:
        """The step's gradients, complete, all on one device; of several ranks this one's rows."""

    @abstractmethod
    def drop_gradients(self) -> None: ...

    @abstractmethod
    def apply(self, gradient_factor: float, lr_scale: float) -> None:
        """One update from the gradients times a factor, which are dropped. The weights are whole
        again after `finish`.
        """

    def finish(self) -> None:  # noqa: B027 (most have nothing to do)
        """Nothing is left to wait for where the device does things in order."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """What is kept of each parameter, by its place, and the masters of 16-bit ones."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes a `state_dict`; the weights are in place already."""

    def narrow(self) -> list[int]:
        """Places of the 16-bit parameters, whose masters say more than they; a float32 one is its
        own.
        """
        return [i for i, p in enumerate(self.parameters) if p.dtype != torch.float32]


@dataclass(slots=True)
class Part:
    """Some parameters and the optimizer that updates their float32 masters."""

    parameters: list[torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    peak_lr: float

    @property
    def masters(self) -> list[torch.Tensor]:
        return [master for group in self.optimizer.param_groups for master in group["params"]]


class DeviceUpdate(Update):
    """16-bit weights are rounded from their masters after each update."""

    def __init__(self, parts: list[Part], gradient_dtype: torch.dtype) -> None:
        super().__init__([parameter for part in parts for parameter in part.parameters])
        self._parts = parts
        for parameter in self.parameters:
            # Autograd casts what arrives and sums micro-batches in this type.
            parameter.grad_dtype = gradient_dtype

    def gradients(self) -> list[torch.Tensor]:
        return [p.grad for p in self.parameters if p.grad is not None]

    def drop_gradients(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def apply(self, gradient_factor: float, lr_scale: float) -> None:
        for part in self._parts:
            for group in part.optimizer.param_groups:
                group["lr"] = part.peak_lr * lr_scale
            pairs = list(zip(part.parameters, part.masters, strict=True))
            for bucket in buckets(parameter.numel() for parameter in part.parameters):
                for index in bucket:
                    _hand_gradient_over(*pairs[index], gradient_factor)
                part.optimizer.step()
                for index in bucket:
                    parameter, master = pairs[index]
                    master.grad = None
                    if parameter.dtype != torch.float32:
                        parameter.copy_(master)

    def state_dict(self) -> dict[str, Any]:
        state = {
            first + index: values
            for first, part in self._numbered_parts()
            for index, values in part.optimizer.state_dict()["state"].items()
        }
        masters = self._masters()
        return {"state": state, "masters": {index: masters[index] for index in self.narrow()}}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        for first, part in self._numbered_parts():
            places = range(first, first + len(part.parameters))
            own = {i - first: state["state"][i] for i in places if i in state["state"]}
            load_values(part.optimizer, own)
            if getattr(part.optimizer, "is_paged", False):
                page_state(part.optimizer)
        masters = self._masters()
        for index in self.narrow():
            masters[index].copy_(state["masters"][index])
            self.parameters[index].copy_(masters[index])

    def _numbered_parts(self) -> Iterator[tuple[int, Part]]:
        """Each part with the place of its first parameter."""
        first = 0
        for part in self._parts:
            yield first, part
            first += len(part.parameters)

    def _masters(self) -> list[torch.Tensor]:
        return [master for part in self._parts for master in part.masters]


def load_values(optimizer: torch.optim.Optimizer, state: dict[int, Any]) -> None:
    """Takes what is kept of each parameter; rates and decay stay those of the recipe."""
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _hand_gradient_over(parameter: torch.nn.Parameter, master: torch.Tensor, factor: float) -> None:
    """Moves the scaled gradient from `parameter` to `master`, in float32."""
    if parameter.dtype == torch.float32:
        assert master.data_ptr() == parameter.data_ptr(), "the weights moved after the optimizer"
    if parameter.grad is not None:
        master.grad = parameter.grad.to(torch.float32)
        parameter.grad = None
        if factor != 1.0:
            master.grad.mul_(factor)


def fused_adamw(masters: list[torch.Tensor], config: Optimizer) -> torch.optim.AdamW:
    """Torch's own; float32 moments, 8 bytes a parameter."""
    return torch.optim.AdamW(
        masters,
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,
    )


def adamw(parameters: list[torch.nn.Parameter], config: Optimizer) -> Part:
    masters = [float32_master(parameter) for parameter in parameters]
    return Part(parameters, fused_adamw(masters, config), config.lr)


def muon(matrices: list[torch.nn.Parameter], config: Optimizer) -> Part:
    """Torch's Muon; a float32 momentum, 4 bytes a parameter."""
    optimizer = torch.optim.Muon(
        [float32_master(matrix) for matrix in matrices],
        lr=config.muon_lr,
        weight_decay=config.weight_decay,
        momentum=MUON_MOMENTUM,
    )
    return Part(matrices, optimizer, config.muon_lr)


def adamw_8bit(parameters: list[torch.nn.Parameter], config: Optimizer) -> Part:
    """AdamW of bitsandbytes, moments in 8 bits with a float32 scale per 256 (arXiv 2110.02861), in
    float32 under 4096 entries; adamw_8bit_paged has them in memory that CUDA moves to the host when
    the GPU runs out.
    """
    paged = config.kind == "adamw_8bit_paged"
    try:
        from bitsandbytes.optim import AdamW8bit  # pyright: ignore
    except ImportError as error:
        raise RecipeError(
            f"optimizer.kind {config.kind} needs bitsandbytes ({error}); use adamw_cpu, which is "
            "exact, or run " + install("vibelite[gpu]")
        ) from error
    if paged and any(parameter.device.type != "cuda" for parameter in parameters):
        raise RecipeError(
            "optimizer.kind adamw_8bit_paged pages between an NVIDIA GPU and its host, and there "
            "is no GPU here; use adamw, adamw_cpu or adamw_8bit"
        )
    optimizer = AdamW8bit(
        [float32_master(parameter) for parameter in parameters],
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
        is_paged=paged,
    )
    return Part(parameters, optimizer, config.lr)


def page_state(optimizer: Any) -> None:
    """Puts loaded 8-bit moments into paged memory: bitsandbytes loads them as ordinary tensors."""
    for master, state in optimizer.state.items():
        for name in ("state1", "state2"):
            buffer = optimizer.get_state_buffer(master, dtype=state[name].dtype)
            state[name] = buffer.copy_(state[name])
