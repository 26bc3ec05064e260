"""Several processes, one per GPU, that run the same program, seen from one of them. Objects travel
over gloo, gradients and weights over the device's own backend; all ranks enter every exchange in
one order, each numbered and named for the watchdog. How tensors are cut over ranks: by rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from vibelite.errors import PeerLost, VibeLiteError
from vibelite.ranks.ranks import Leading, Ranks

T = TypeVar("T")
# How FSDP packs gradients: row r has rank r's rows of every tensor, padded with 0.
chunk_cat = torch._chunk_cat  # pyright: ignore[reportPrivateImportUsage]
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
    states: Any = None
    """That of the threads that write saved states, which the watchdog does not follow."""
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
            dist.all_gather_object(said, value, group=self.objects)
        return said

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
        packed = chunk_cat(list(tensors), 0, self.num_ranks)
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


def rows_of(tensor: torch.Tensor, num_ranks: int, rank: int) -> torch.Tensor:
    """One rank's rows of a tensor, as torch.chunk and FSDP cut it; none where there are too few.
    Shares memory.
    """
    parts = tensor.chunk(num_ranks)
    return parts[rank] if rank < len(parts) else tensor[:0]


def padded_size(shape: Sequence[int], num_ranks: int) -> int:
    """Elements of every rank's rows once they are padded to the most that a rank has."""
    return -(-shape[0] // num_ranks) * math.prod(shape[1:])


def unpack(
    packed: torch.Tensor, shapes: Sequence[torch.Size], num_ranks: int, rank: int
) -> list[torch.Tensor]:
    """A rank's rows of tensors of `shapes`, whose padded rows follow one another in `packed` [C];
    shares memory.
    """
    padded = packed.split([padded_size(shape, num_ranks) for shape in shapes])
    found = []
    for shape, part in zip(shapes, padded, strict=True):
        rows = part.view(-1, *shape[1:])
        found.append(rows[: max(0, shape[0] - rank * len(rows))])
    return found


def pad(
    parts: Sequence[torch.Tensor], shapes: Sequence[torch.Size], num_ranks: int
) -> torch.Tensor:
    """[C]: a rank's rows of tensors of `shapes`, padded with 0 and one after the other."""
    sizes = [padded_size(shape, num_ranks) for shape in shapes]
    padded = parts[0].new_zeros(sum(sizes))
    for part, place in zip(parts, padded.split(sizes), strict=True):
        place[: part.numel()] = part.reshape(-1)
    return padded
