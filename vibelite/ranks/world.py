"""Several processes, one per GPU, that run the same program, seen from one of them.

Objects (decisions, completions, laps) travel over gloo, gradients and weights over the device's own
backend. Work that any rank may take is handed out through the store (`rollout/shared_engine.py`).
All ranks enter every exchange in one order; each is numbered and named for the watchdog.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from vibelite.errors import PeerLost, VibeLiteError
from vibelite.ranks.cut import pack, pad, padded_size, unpack
from vibelite.ranks.ranks import Leading, Ranks

T = TypeVar("T")
# Their names since torch 2.13, and those before.
reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
# What the leader sends: something to do meanwhile, what a call returned, what it raised.
TASK, RESULT, ERROR = "task", "result", "error"


@dataclass(eq=False)
class World(Ranks):
    """Two or more processes, and what they exchange for an update."""

    objects: Any = None
    """The process group for Python objects, on the CPU."""
    mesh: DeviceMesh | None = None
    waiting: Callable[[], AbstractContextManager[None]] = nullcontext
    """Around every wait for other ranks (`Meter.span`)."""

    @property
    def leading(self) -> Ranks:
        return Leading(self) if self.is_leader else self

    @contextmanager
    def exchanging(self, what: str) -> Iterator[None]:
        """Around what all ranks do together. PeerLost where another rank is gone."""
        with self.watchdog.exchanging(what), self.waiting():
            try:
                yield
            except RuntimeError as error:  # what gloo, NCCL and the store raise
                reason = str(error).strip().splitlines()[0]
                raise PeerLost(f"rank {self.rank} lost another rank in {what}: {reason}") from error

    def from_leader(
        self, produce: Callable[[], T], *, meanwhile: Callable[[Any], None] | None = None
    ) -> T:
        if not self.is_leader:
            return self._follow(meanwhile)
        try:
            value = produce()
        except VibeLiteError as error:
            self._send((ERROR, error))
            raise
        self._send((RESULT, value))
        return value

    def _follow(self, meanwhile: Callable[[Any], None] | None) -> Any:
        while True:
            kind, value = self._send(None)
            if kind == ERROR:
                value.printed_by_leader = True
                raise value
            if kind == RESULT:
                return value
            assert meanwhile is not None, "the leader delegates only where ranks listen"
            meanwhile(value)

    def delegate(self, task: Any) -> None:
        assert self.is_leader, "the others listen to the leader"
        self._send((TASK, task))

    def _send(self, message: Any) -> Any:
        """The leader's message, on every rank."""
        box = [message]
        with self.exchanging("the leader's word"):
            dist.broadcast_object_list(box, src=0, group=self.objects)
        return box[0]

    def gather(self, value: T) -> list[T]:
        said: list[Any] = [None] * self.num_ranks
        with self.exchanging("everyone's numbers"):
            dist.all_gather_object(said, (self.watchdog.history, value), group=self.objects)
        require_same_history([history for history, _ in said])
        return [value for _, value in said]

    def joined(self, values: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        mine = [{key: tensor.cpu() for key, tensor in value.items()} for value in values]
        return [value for part in self.gather(mine) for value in part]

    def norm(self, norm: torch.Tensor) -> torch.Tensor:
        square = norm.to(torch.float64).square()
        with self.exchanging("the norm of all ranks"):
            dist.all_reduce(square, group=self.objects if square.device.type == "cpu" else None)
        return square.sqrt().to(norm.dtype)

    def barrier(self, what: str) -> None:
        with self.exchanging(what):
            dist.barrier(group=self.objects)

    def sum_to_rows(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """This rank's rows of the sum of each tensor over all ranks: one reduce-scatter of tensors
        of one type.
        """
        packed = pack(tensors, self.num_ranks)
        mine = packed.new_empty(packed.shape[1])
        self.count("reduce_scatter", packed)
        with self.exchanging("the gradients of all ranks"):
            reduce_scatter(mine, packed.view(-1))
        return unpack(mine, [tensor.shape for tensor in tensors], self.num_ranks, self.rank)

    def gather_rows(self, parts: Sequence[torch.Tensor], like: Sequence[torch.Tensor]) -> None:
        """Fills the tensors of `like` from everyone's rows of them: one all-gather."""
        shapes = [tensor.shape for tensor in like]
        mine = pad(parts, shapes, self.num_ranks)
        gathered = mine.new_empty(self.num_ranks * mine.numel())
        self.count("all_gather", gathered)
        with self.exchanging("the weights of all ranks"):
            all_gather(gathered, mine)
        sizes = [padded_size(shape, self.num_ranks) for shape in shapes]
        columns = gathered.view(self.num_ranks, -1).split(sizes, dim=1)
        for part, target in zip(columns, like, strict=True):
            target.view(-1).copy_(part.reshape(-1)[: target.numel()])

    def as_dtensor(self, part: torch.Tensor, shape: Sequence[int]) -> DTensor:
        """This rank's rows of a tensor of `shape`, for DCP to save and cut anew; shares memory."""
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(
            part, self.mesh, [Shard(0)], run_check=False, shape=torch.Size(shape), stride=stride
        )

    def count(self, what: str, tensor: torch.Tensor) -> None:
        """Adds to `sent_bytes`."""
        self.sent_bytes[what] = self.sent_bytes.get(what, 0) + tensor.nbytes


def require_same_history(histories: Sequence[int]) -> None:
    """VibeLiteError, on all ranks, where they did not exchange the same things in the same
    order: what they hold would not be of one step any more.
    """
    odd = [rank for rank, history in enumerate(histories) if history != histories[0]]
    if odd:
        others = ", ".join(map(str, odd))
        raise VibeLiteError(
            f"rank 0 and rank {others} did not exchange the same things in the same order, so "
            "their weights can no longer be trusted; run the same command to go on from the last "
            "saved state, and report this"
        )
