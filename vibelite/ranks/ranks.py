"""What a stage, a recorder or an engine asks of the processes of its run, and the answers where
there is only one; `world.py` has those of several. Rank 0 leads: it alone decides, and writes the
run's files. Needs no torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(eq=False)
class Ranks:
    """The processes of a run, seen from one of them, which here is the only one."""

    rank: int = 0
    num_ranks: int = 1
    num_nodes: int = 1
    store: Any = None
    """Torch's key-value store of all ranks; None where there is one process."""
    watchdog: Any = None
    """`ranks.watchdog.Watchdog`; None where there is one process."""
    sent_bytes: dict[str, int] = field(default_factory=dict)
    """By collective, the bytes of tensors that this rank handed over since the last reset."""

    @property
    def is_one(self) -> bool:
        """Whether this process is the whole run."""
        return self.num_ranks == 1

    @property
    def is_leader(self) -> bool:
        return self.rank == 0

    @property
    def leading(self) -> Ranks:
        """The same for work inside `from_leader`, which concerns no other rank."""
        return self

    def from_leader(
        self, produce: Callable[[], T], *, meanwhile: Callable[[Any], None] | None = None
    ) -> T:
        """What `produce` returns on the leader, or the VibeLiteError that it raises there, on every
        rank. Other ranks do `meanwhile` with what the leader delegates.
        """
        return produce()

    def delegate(self, task: Any) -> None:
        """Gives the other ranks, if any, something to do; called by the leader in `from_leader`."""

    def gather(self, value: T) -> list[T]:
        """Everyone's value, by rank, on every rank."""
        return [value]

    def any_of(self, flags: Sequence[bool]) -> list[bool]:
        """For each place whether any rank says so."""
        return [any(column) for column in zip(*self.gather(list(flags)), strict=True)]

    def joined(self, values: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """The lists of all ranks one after the other, on every rank; tensors come to the CPU where
        there is more than one rank.
        """
        return list(values)

    def norm(self, norm: Any) -> Any:
        """The Euclidean norm of all ranks' vectors, of which this one's norm is given."""
        return norm

    def barrier(self, what: str) -> None:
        """Returns when every rank is here."""

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """The leader does what is inside, then the others, who find the files that it left."""
        if not self.is_leader:
            self.barrier("what the leader writes")
        yield
        if self.is_leader:
            self.barrier("what the leader writes")


ONE_RANK = Ranks()


class Leading(Ranks):
    """The leader at work inside `from_leader`: as if it were alone, but that it can delegate."""

    def __init__(self, world: Ranks) -> None:
        super().__init__(0, world.num_ranks, world.num_nodes, world.store, world.watchdog)
        self._world = world

    def delegate(self, task: Any) -> None:
        self._world.delegate(task)


def is_started_with_others() -> bool:
    """Whether torchrun, or `run_ranks`, started this process."""
    return "RANK" in os.environ


def is_follower() -> bool:
    """Whether another process leads the run."""
    return is_started_with_others() and os.environ["RANK"] != "0"


def num_ranks_given() -> int:
    """Processes of the run."""
    return int(os.environ["WORLD_SIZE"]) if is_started_with_others() else 1


def num_nodes() -> int:
    """Machines on which torchrun started the run."""
    return (
        num_ranks_given() // int(os.environ["LOCAL_WORLD_SIZE"]) if is_started_with_others() else 1
    )


def num_gpus_of(num_visible: int) -> int:
    """GPUs of all nodes of the run, of which this process sees `num_visible`."""
    if not num_visible or not is_started_with_others():
        return num_visible
    return num_nodes() * max(num_visible, int(os.environ["LOCAL_WORLD_SIZE"]))
