"""Updates on the device where the weights are: AdamW, Muon, and AdamW with 8-bit moments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from vibelite.errors import RecipeError
from vibelite.recipe.stage_section import Optimizer
from vibelite.training.clip import buckets
from vibelite.training.precision import float32_master

# Nesterov momentum 0.95 and five Newton-Schulz steps are Muon's published defaults.
MUON_MOMENTUM = 0.95


@dataclass(slots=True)
class Part:
    """Some parameters and the optimizer that updates their float32 masters."""

    parameters: list[torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    peak_lr: float
    masters: list[torch.Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.masters = [
            master for group in self.optimizer.param_groups for master in group["params"]
        ]


class DeviceUpdate:
    """Optimizers over float32 masters; 16-bit weights are rounded from theirs after each update."""

    def __init__(self, parts: list[Part], gradient_dtype: torch.dtype) -> None:
        self._parts = parts
        self.parameters = [parameter for part in parts for parameter in part.parameters]
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
        """One update from the gradients times `gradient_factor`; drops them."""
        for part in self._parts:
            for group in part.optimizer.param_groups:
                group["lr"] = part.peak_lr * lr_scale
            for bucket in buckets(parameter.numel() for parameter in part.parameters):
                for index in bucket:
                    _hand_gradient_over(
                        part.parameters[index], part.masters[index], gradient_factor
                    )
                part.optimizer.step()
                for index in bucket:
                    parameter, master = part.parameters[index], part.masters[index]
                    master.grad = None
                    if parameter.dtype != torch.float32:
                        parameter.copy_(master)

    def finish(self) -> None:
        """Nothing is left to wait for: the device does things in order."""

    def state_dict(self) -> dict[str, Any]:
        """What is kept of each parameter, by its place, and the masters of 16-bit ones."""
        state = {
            first + index: values
            for first, part in self._numbered_parts()
            for index, values in part.optimizer.state_dict()["state"].items()
        }
        return {"state": state, "masters": self._own_masters()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        for first, part in self._numbered_parts():
            places = range(first, first + len(part.parameters))
            own = {i - first: state["state"][i] for i in places if i in state["state"]}
            load_values(part.optimizer, own)
            if is_paged(part.optimizer):
                page_state(part.optimizer)
        for index, master in self._own_masters().items():
            master.copy_(state["masters"][index])
            self.parameters[index].copy_(master)

    def _numbered_parts(self) -> Iterator[tuple[int, Part]]:
        """Each part with the place of its first parameter."""
        first = 0
        for part in self._parts:
            yield first, part
            first += len(part.parameters)

    def _own_masters(self) -> dict[int, torch.Tensor]:
        """By place the masters of 16-bit parameters; a float32 one is its own."""
        masters = [master for part in self._parts for master in part.masters]
        return {i: masters[i] for i, p in enumerate(self.parameters) if p.dtype != torch.float32}


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


def adamw(parameters: list[torch.nn.Parameter], config: Optimizer) -> Part:
    """Torch's fused AdamW; float32 moments, 8 bytes a parameter."""
    optimizer = torch.optim.AdamW(
        [float32_master(parameter) for parameter in parameters],
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,
    )
    return Part(parameters, optimizer, config.lr)


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
    """AdamW of bitsandbytes, moments in 8 bits with a float32 scale per 256 (arXiv 2110.02861);
    tensors under 4096 entries keep float32 moments.

    With kind adamw_8bit_paged the moments are in memory that CUDA moves to the host when the GPU
    runs out. bitsandbytes 0.50 has the 8-bit update on a CPU too (slow), pages only on a GPU.
    """
    paged = config.kind == "adamw_8bit_paged"
    try:
        from bitsandbytes.optim import AdamW8bit  # pyright: ignore
    except ImportError as error:
        raise RecipeError(
            f"optimizer.kind {config.kind} needs bitsandbytes ({error}); pip install "
            "'vibelite[gpu]', or use adamw_cpu, which is exact"
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


def is_paged(optimizer: torch.optim.Optimizer) -> bool:
    return getattr(optimizer, "is_paged", False)


def page_state(optimizer: Any) -> None:
    """Puts loaded 8-bit moments into paged memory: bitsandbytes loads them as ordinary tensors."""
    for master, state in optimizer.state.items():
        for name in ("state1", "state2"):
            buffer = optimizer.get_state_buffer(master, dtype=state[name].dtype)
            state[name] = buffer.copy_(state[name])
