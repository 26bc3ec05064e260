"""What a stage, a recorder or an engine asks of the processes of its run, whether there is one or
several. Rank 0 leads: it alone decides, and writes the run's files. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Ranks(Protocol):
    """The processes of a run, seen from one of them."""

    @property
    def rank(self) -> int: ...

    @property
    def num_ranks(self) -> int: ...

    @property
    def num_nodes(self) -> int: ...

    @property
    def is_one(self) -> bool:
        """Whether this process is the whole run."""
        ...

    @property
    def is_leader(self) -> bool: ...

    @property
    def store(self) -> Any:
        """Key-value store of all ranks (torch's); None where there is one process."""
        ...

    @property
    def watchdog(self) -> Any:
        """`ranks.watchdog.Watchdog`; None where there is one process."""
        ...

    @property
    def sent_bytes(self) -> dict[str, int]:
        """By collective, the bytes of tensors that this rank handed over since the last reset."""
        ...

    @property
    def leading(self) -> Ranks:
        """The same for work inside `from_leader`, which concerns no other rank."""
        ...

    def from_leader(
        self, produce: Callable[[], T], *, meanwhile: Callable[[Any], None] | None = None
    ) -> T:
        """What `produce` returns on the leader, or the VibeLiteError that it raises there, on every
        rank. Other ranks do `meanwhile` with what the leader delegates.
        """
        ...

    def delegate(self, task: Any) -> None:
        """Gives the other ranks, if any, something to do; called by the leader in `from_leader`."""
        ...

    def gather(self, value: T) -> list[T]:
        """Everyone's value, by rank, on every rank."""
        ...

    def any_of(self, flags: Sequence[bool]) -> list[bool]:
        """For each place whether any rank says so."""
        ...

    def joined(self, values: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """The lists of all ranks one after the other, on every rank; tensors come to the CPU where
        there is more than one rank.
        """
        ...

    def norm(self, norm: Any) -> Any:
        """The Euclidean norm of all ranks' vectors, of which this one's norm is given."""
        ...

    def barrier(self, what: str) -> None:
        """Returns when every rank is here."""
        ...

    def leader_first(self) -> AbstractContextManager[None]:
        """The leader does what is inside, then the others, who find the files that it left."""
        ...


class OneRank:
    """A process by itself."""

    rank: int = 0
    num_ranks: int = 1
    num_nodes: int = 1
    is_one: bool = True
    is_leader: bool = True
    store: Any = None
    watchdog: Any = None

    @property
    def sent_bytes(self) -> dict[str, int]:
        return {}

    @property
    def leading(self) -> Ranks:
        return self

    def from_leader(
        self, produce: Callable[[], T], *, meanwhile: Callable[[Any], None] | None = None
    ) -> T:
        return produce()

    def delegate(self, task: Any) -> None:
        """Nobody listens."""

    def gather(self, value: T) -> list[T]:
        return [value]

    def any_of(self, flags: Sequence[bool]) -> list[bool]:
        return list(flags)

    def joined(self, values: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        return list(values)

    def norm(self, norm: Any) -> Any:
        return norm

    def barrier(self, what: str) -> None:
        """Nobody is waited for."""

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        yield


ONE_RANK = OneRank()


class Leading(OneRank):
    """The leader at work inside `from_leader`: as if it were alone, but that it can delegate."""

    is_one = False

    def __init__(self, world: Ranks) -> None:
        self._world = world
        self.num_ranks = world.num_ranks
        self.num_nodes = world.num_nodes
        self.store = world.store
        self.watchdog = world.watchdog

    def delegate(self, task: Any) -> None:
        self._world.delegate(task)
