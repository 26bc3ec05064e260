"""Inputs of checkpointed layers in the host's memory: copied out while the next layers run, and
back one layer ahead of the backward pass, on a stream of their own.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field

import torch


@dataclass(eq=False)
class HostInput:
    """One layer's input [B, T, H] on the host; `device` says where it belongs, `previous` is that
    of the layer before, `arriving` is the copy on its way back.
    """

    host: torch.Tensor
    device: torch.device
    previous: weakref.ref[HostInput] | None
    arriving: torch.Tensor | None = None
    arrived: torch.cuda.Event | None = field(default=None, repr=False)


class HostInputs:
    """Keeps the inputs of a model's layers on the host; `save` and `load` are hooks of autograd.

    Lifetimes are those of the graph: it alone holds the `HostInput`s, and torch's pinned-memory
    cache takes a buffer back once the graph has let go of it and the copies are done; it rounds
    each up to a power of two. On the device are at most two inputs: the one in use, and the one
    that leaves or arrives. On a CPU the hooks copy, which makes no sense but for tests.
    """

    def __init__(self) -> None:
        self._last: weakref.ref[HostInput] | None = None
        self._leaving: tuple[torch.Tensor, torch.cuda.Event] | None = None
        self._stream: torch.cuda.Stream | None = None

    def start(self) -> None:
        """Called before the first layer of a forward pass, which has none before it."""
        self._last = None

    def save(self, hidden: torch.Tensor) -> HostInput | torch.Tensor:
        """Starts the copy of a layer's input to the host."""
        if hidden.numel() == 0:
            return hidden  # torch 2.11 saves an empty tensor beside the input
        hidden, is_gpu = hidden.detach(), hidden.device.type == "cuda"
        host = torch.empty(hidden.shape, dtype=hidden.dtype, device="cpu", pin_memory=is_gpu)
        saved = HostInput(host, hidden.device, self._last)
        self._last = weakref.ref(saved)
        if not is_gpu:
            host.copy_(hidden)
            return saved
        self._let_go()
        compute, stream = torch.cuda.current_stream(hidden.device), self._copies(hidden.device)
        stream.wait_stream(compute)
        with torch.cuda.stream(stream):
            host.copy_(hidden, non_blocking=True)
            # Held until the next layer, whose work then waits for the copy. Tensor.record_stream
            # would instead keep the memory until the GPU has done the copy, and the host, which is
            # many layers ahead of the GPU, could not use it again for any of them.
            left = torch.cuda.Event()
            left.record(stream)
            self._leaving = hidden, left
        return saved

    def load(self, saved: HostInput | torch.Tensor) -> torch.Tensor:
        """The input, on its device; starts the copy of the layer's before it."""
        if isinstance(saved, torch.Tensor):
            return saved
        if saved.device.type != "cuda":
            return saved.host.clone()
        self._let_go()
        if saved.arriving is None:
            self._fetch(saved)
        hidden, arrived = saved.arriving, saved.arrived
        assert hidden is not None and arrived is not None, "a copy was started"
        saved.arriving = saved.arrived = None
        torch.cuda.current_stream(saved.device).wait_event(arrived)
        previous = saved.previous() if saved.previous is not None else None
        if previous is not None and previous.arriving is None:
            self._fetch(previous)
        return hidden

    def _fetch(self, saved: HostInput) -> None:
        """Starts the copy to the device, after all that the device has been asked to do so far: the
        memory that it is given may be in use until then.
        """
        compute, stream = torch.cuda.current_stream(saved.device), self._copies(saved.device)
        saved.arriving = torch.empty_like(saved.host, device=saved.device)
        stream.wait_stream(compute)
        with torch.cuda.stream(stream):
            saved.arriving.copy_(saved.host, non_blocking=True)
            saved.arrived = torch.cuda.Event()
            saved.arrived.record(stream)

    def _let_go(self) -> None:
        """Frees the input that was last copied out, for work after that copy."""
        if self._leaving is not None:
            hidden, left = self._leaving
            torch.cuda.current_stream(hidden.device).wait_event(left)
            self._leaving = None

    def _copies(self, device: torch.device) -> torch.cuda.Stream:
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)
        return self._stream
