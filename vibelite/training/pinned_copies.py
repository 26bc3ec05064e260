"""Copies between a GPU and the host's memory beside the GPU's other work, through a few pinned
buffers.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle

import torch

# Eight buffers of 32 MiB: the link is busy while the host works on another buffer, and 256 MiB of
# pinned memory bound both directions.
NUM_BUFFERS = 8
BUFFER_BYTES = 32 << 20


@dataclass(slots=True)
class Buffer:
    """Pinned bytes, when the GPU is done with them, and the host's work on them."""

    storage: torch.Tensor
    copied: torch.cuda.Event
    work: Future[None] | None = None

    def wait(self) -> None:
        """Returns when neither the host nor the GPU uses the buffer; raises what went wrong."""
        if self.work is not None:
            work, self.work = self.work, None
            work.result()
        self.copied.synchronize()

    def view(self, num_elements: int, dtype: torch.dtype) -> torch.Tensor:
        return self.storage[: num_elements * dtype.itemsize].view(dtype)


class Transfer:
    """Two directions between `device` and the host, each on a stream of its own.

    `worker` does the host's part; a single thread, so that sums keep their order.
    """

    def __init__(self, device: torch.device) -> None:
        self.worker = ThreadPoolExecutor(1, "transfer")
        self._device = device
        self._outward = torch.cuda.Stream(device)
        self._inward = torch.cuda.Stream(device)
        self._out_buffers = [_buffer() for _ in range(NUM_BUFFERS // 2)]
        self._in_buffers = [_buffer() for _ in range(NUM_BUFFERS // 2)]
        self._next_out = cycle(self._out_buffers)
        self._next_in = cycle(self._in_buffers)

    def add_to_host(self, source: torch.Tensor, total: torch.Tensor, *, overwrite: bool) -> None:
        """Starts `total += source` (or `total = source`), in the order of the device's work on
        `source`, which is then free for reuse.
        """
        flat, flat_total = source.reshape(-1), total.view(-1)
        self._outward.wait_stream(torch.cuda.current_stream(self._device))
        chunk = BUFFER_BYTES // flat.dtype.itemsize
        for piece, target in zip(flat.split(chunk), flat_total.split(chunk), strict=True):
            buffer = next(self._next_out)
            buffer.wait()
            pinned = buffer.view(piece.numel(), piece.dtype)
            with torch.cuda.stream(self._outward):
                pinned.copy_(piece, non_blocking=True)
                buffer.copied.record()
            buffer.work = self.worker.submit(
                _add_when_copied, buffer.copied, pinned, target, overwrite
            )
        flat.record_stream(self._outward)

    def wait_for_host(self) -> None:
        """Returns when every sum on the host is complete."""
        for buffer in self._out_buffers:
            buffer.wait()

    def copy_to_device(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Starts `target[:] = source` in the type of `target`; `source` is then free for reuse."""
        flat, flat_target = source.view(-1), target.detach().view(-1)
        chunk = BUFFER_BYTES // flat_target.dtype.itemsize
        for piece, place in zip(flat.split(chunk), flat_target.split(chunk), strict=True):
            buffer = next(self._next_in)
            buffer.wait()
            pinned = buffer.view(piece.numel(), flat_target.dtype)
            pinned.copy_(piece)
            with torch.cuda.stream(self._inward):
                place.copy_(pinned, non_blocking=True)
                buffer.copied.record()

    def let_device_write(self) -> None:
        """Copies to the device started from now on wait for what it has been asked to do before."""
        self._inward.wait_stream(torch.cuda.current_stream(self._device))

    def wait_for_device(self) -> None:
        """The device's later work on the current stream sees everything copied to it so far."""
        torch.cuda.current_stream(self._device).wait_stream(self._inward)


def _buffer() -> Buffer:
    return Buffer(torch.empty(BUFFER_BYTES, dtype=torch.uint8, pin_memory=True), torch.cuda.Event())


@torch.no_grad()
def _add_when_copied(
    copied: torch.cuda.Event, pinned: torch.Tensor, target: torch.Tensor, overwrite: bool
) -> None:
    copied.synchronize()
    if overwrite:
        target.copy_(pinned)
    else:
        target.add_(pinned)
