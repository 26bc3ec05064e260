"""Exact AdamW on the host: float32 masters, moments and update there, weights on the device.

During backward every gradient leaves for the host as soon as it is complete, so the device never
holds more than a few; after the update the new weights come back while the next ones are computed.
On a CPU nothing moves and nothing is asynchronous.
"""

from __future__ import annotations

import weakref
from concurrent.futures import Future
from typing import Any

import torch

from vibelite.recipe.stage_section import Optimizer
from vibelite.training.clip import buckets
from vibelite.training.device_update import Update, fused_adamw, load_values
from vibelite.training.pinned_copies import Transfer
from vibelite.training.precision import float32_master

HOST = torch.device("cpu")


class HostAdamW(Update):
    """AdamW whose state is on the host; the weights may be in any type, on any device."""

    def __init__(
        self,
        parameters: list[torch.nn.Parameter],
        config: Optimizer,
        gradient_dtype: torch.dtype,
    ) -> None:
        super().__init__(parameters)
        self._peak_lr = config.lr
        self._gradient_dtype = gradient_dtype
        self._masters = [float32_master(parameter, HOST) for parameter in parameters]
        self._optimizer = fused_adamw(self._masters, config)
        self._sums: list[torch.Tensor | None] = [None] * len(parameters)
        # Where 16-bit gradients are widened: fresh pages for each would cost more than the update.
        sizes = [parameter.numel() for parameter in parameters]
        largest = max(sum(sizes[index] for index in bucket) for bucket in buckets(sizes))
        self._widened = torch.empty(0 if gradient_dtype == torch.float32 else largest)
        self._has_gradient = [False] * len(parameters)
        self._update: Future[None] | None = None
        device = parameters[0].device
        self._transfer = Transfer(device) if device.type == "cuda" else None
        for index, parameter in enumerate(parameters):
            parameter.register_post_accumulate_grad_hook(_collector(self, index))

    def collect(self, index: int) -> None:
        """Adds the gradient of parameter `index` to its sum on the host, and drops it."""
        assert self._update is None, "a gradient of weights that were used before finish()"
        gradient = self.parameters[index].grad
        assert gradient is not None
        self.parameters[index].grad = None
        total, is_first = self._sums[index], not self._has_gradient[index]
        self._has_gradient[index] = True
        if self._transfer is not None:
            if total is None:
                total = torch.empty(gradient.shape, dtype=self._gradient_dtype)
                self._sums[index] = total
            self._transfer.add_to_host(gradient, total, overwrite=is_first)
        elif total is None:
            self._sums[index] = gradient.to(self._gradient_dtype)
        else:
            total.add_(gradient)

    def gradients(self) -> list[torch.Tensor]:
        """The sums on the host, once all of them have arrived."""
        for index, parameter in enumerate(self.parameters):
            if parameter.grad is not None:  # set by hand, not by backward
                self.collect(index)
        if self._transfer is not None:
            self._transfer.wait_for_host()
        sums = zip(self._sums, self._has_gradient, strict=True)
        return [total for total, has_gradient in sums if has_gradient and total is not None]

    def drop_gradients(self) -> None:
        self._has_gradient = [False] * len(self.parameters)
        if self._transfer is None:
            self._sums = [None] * len(self.parameters)

    def apply(self, gradient_factor: float, lr_scale: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self._peak_lr * lr_scale
        if self._transfer is None:
            self._apply(gradient_factor)
        else:
            self._transfer.let_device_write()
            self._update = self._transfer.worker.submit(self._apply, gradient_factor)

    def finish(self) -> None:
        """Waits for the update in progress; the device uses the new weights from here on."""
        if self._update is not None:
            update, self._update = self._update, None
            update.result()
        if self._transfer is not None:
            self._transfer.wait_for_device()

    def state_dict(self) -> dict[str, Any]:
        self.finish()
        masters = {index: self._masters[index] for index in self.narrow()}
        return {"state": self._optimizer.state_dict()["state"], "masters": masters}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.finish()
        load_values(self._optimizer, state["state"])
        for parameter, master in zip(self.parameters, self._masters, strict=True):
            master.copy_(parameter)  # a float32 weight, which was saved as such
        for index in self.narrow():
            self._masters[index].copy_(state["masters"][index])
            self.parameters[index].copy_(self._masters[index])

    @torch.no_grad()
    def _apply(self, factor: float) -> None:
        for bucket in buckets(parameter.numel() for parameter in self.parameters):
            free = self._widened
            for index in bucket:
                total = self._sums[index]
                if not self._has_gradient[index] or total is None:
                    continue
                gradient = total
                if total.dtype != torch.float32:
                    used, free = free[: total.numel()], free[total.numel() :]
                    gradient = used.view_as(total).copy_(total)
                self._masters[index].grad = gradient if factor == 1.0 else gradient.mul_(factor)
            self._optimizer.step()
            for index in bucket:
                self._masters[index].grad = None
                self._send_back(self.parameters[index], self._masters[index])
        self.drop_gradients()

    def _send_back(self, parameter: torch.nn.Parameter, master: torch.Tensor) -> None:
        if self._transfer is not None:
            self._transfer.copy_to_device(master, parameter)
        elif parameter.dtype != torch.float32:
            parameter.copy_(master)


def _collector(optimizer: HostAdamW, index: int):
    """A hook that hands a complete gradient over; it does not keep the optimizer alive."""
    collect = weakref.WeakMethod(optimizer.collect)

    def hand_over(_: torch.Tensor) -> None:
        if (alive := collect()) is not None:
            alive(index)

    return hand_over
