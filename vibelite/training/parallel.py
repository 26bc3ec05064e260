"""Several processes, one per GPU, that run the same program: the only file that imports
torch.distributed.

Rank 0 leads: it alone decides, and writes the run's files (`node_files.py`: on every node, where
nodes have a run directory each). Objects (decisions, completions, laps)
travel over gloo, gradients and weights over the device's own backend. Work that any rank may take
is handed out through the store (`rollout/shared_engine.py`). A single process is a `World` of one,
in which nothing here does anything.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.rendezvous import rendezvous
from torch.distributed.tensor import DTensor, Shard

from vibelite.errors import CheckpointError, PeerLost, RecipeError, VibeLiteError
from vibelite.training.shares import pack, share_size
from vibelite.training.watchdog import Watchdog

T = TypeVar("T")
# Their names since torch 2.13, and those before.
reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
# What the leader sends: something to do meanwhile, what a call returned, what it raised.
TASK, RESULT, ERROR = "task", "result", "error"
# Of the exchange of objects: how long a rank may take for its own work is the watchdog's business.
OBJECT_TIMEOUT = timedelta(days=7)
# Of everything that VibeLite keeps in the store.
KEYS = "vibelite"


@dataclass(eq=False)
class World:
    """The processes of a run, seen from one of them."""

    rank: int = 0
    num_ranks: int = 1
    local_rank: int = 0
    num_nodes: int = 1
    store: Any = None
    """Shared by all ranks; None in a world of one."""
    watchdog: Watchdog | None = None
    objects: Any = None
    """The process group for Python objects, on the CPU."""
    mesh: DeviceMesh | None = None
    waiting: Callable[[], Any] | None = None
    """Makes a context manager around every wait for other ranks (`Meter.span`)."""
    _is_alone: bool = False
    disks: list[int] = field(default_factory=lambda: [0])
    """Of every run directory the rank that writes it: one, where all ranks see the same."""
    _writers: Any = None
    """The process group of those."""
    sent_bytes: dict[str, int] = field(default_factory=dict)
    """By collective, the bytes of tensors that this rank handed over since the last reset."""

    @property
    def is_leader(self) -> bool:
        return self.rank == 0

    @property
    def is_one(self) -> bool:
        return self.num_ranks == 1

    @property
    def keeps_files(self) -> bool:
        """Whether this rank writes the run directory that it sees."""
        return self.rank in self.disks

    @property
    def sends_files(self) -> bool:
        """Whether what is written here and now has to reach other run directories."""
        return len(self.disks) > 1 and not self._is_alone

    @contextmanager
    def _wait(self, what: str) -> Iterator[None]:
        """Around an exchange: says where this rank waits. PeerLost where another rank is gone."""
        assert self.watchdog is not None
        with self.watchdog.exchanging(what), self.waiting() if self.waiting else _nothing():
            try:
                yield
            except RuntimeError as error:  # what gloo, NCCL and the store raise
                reason = str(error).strip().splitlines()[0]
                raise PeerLost(f"rank {self.rank} lost another rank in {what}: {reason}") from error

    def from_leader(
        self, produce: Callable[[], T], *, meanwhile: Callable[[Any], None] | None = None
    ) -> T:
        """What `produce` returns on the leader, or the VibeLiteError that it raises there, on every
        rank. Other ranks do `meanwhile` with what the leader delegates.

        Within `produce` the leader is by itself: a call in it concerns no other rank.
        """
        if self.is_one or self._is_alone:
            return produce()
        if not self.is_leader:
            return self._follow(meanwhile)
        self._is_alone = True
        try:
            value = produce()
        except VibeLiteError as error:
            self._send((ERROR, error))
            raise
        finally:
            self._is_alone = False
        self._send((RESULT, value))
        return value

    def _follow(self, meanwhile: Callable[[Any], None] | None) -> Any:
        while True:
            kind, value = self._send(None)
            if kind == ERROR:
                value.is_leaders = True  # who prints it
                raise value
            if kind == RESULT:
                return value
            assert meanwhile is not None, "the leader delegates only where ranks listen"
            meanwhile(value)

    def delegate(self, task: Any) -> None:
        """Gives the other ranks, if any, something to do within `from_leader`."""
        if not self.is_one:
            assert self.is_leader and self._is_alone, "ranks listen only within from_leader"
            self._send((TASK, task))

    def _send(self, message: Any) -> Any:
        """The leader's message, on every rank."""
        box = [message]
        with self._wait("the leader's word"):
            dist.broadcast_object_list(box, src=0, group=self.objects)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """Everyone's value, by rank, on every rank."""
        if self.is_one or self._is_alone:
            return [value]
        assert self.watchdog is not None
        said: list[Any] = [None] * self.num_ranks
        with self._wait("everyone's numbers"):
            dist.all_gather_object(said, (self.watchdog.history, value), group=self.objects)
        require_same_history([history for history, _ in said])
        return [value for _, value in said]

    def joined(self, values: Iterable[dict[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
        """The lists of all ranks one after the other, on every rank; tensors come to the CPU where
        there is more than one rank.
        """
        mine = list(values)
        if self.is_one:
            return mine
        mine = [{key: tensor.cpu() for key, tensor in value.items()} for value in mine]
        return [value for part in self.gather(mine) for value in part]

    def barrier(self, what: str) -> None:
        """Returns when every rank is here."""
        if self.is_one or self._is_alone:
            return
        with self._wait(what):
            dist.barrier(group=self.objects)

    def set_disks(self, disks: list[int]) -> None:
        """Takes the ranks that write a run directory each. Called by all ranks."""
        self.disks = disks
        if len(disks) > 1:
            self._writers = dist.new_group(disks, backend="gloo", timeout=OBJECT_TIMEOUT)

    def send_bytes(self, chunk: bytearray | memoryview, source: int) -> None:
        """Fills `chunk` with that of rank `source`. Called by the ranks that keep files."""
        with self._wait("files of another node"):
            tensor = torch.frombuffer(chunk, dtype=torch.uint8)
            dist.broadcast(tensor, src=source, group=self._writers)

    def sum_to_shards(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """This rank's share [ceil(numel / n)] of the sum of each tensor over all ranks: one
        reduce-scatter of tensors of one type. Padding is 0.
        """
        packed = pack(tensors, self.num_ranks)
        mine = packed.new_empty(packed.shape[1])
        self._count("reduce_scatter", packed)
        with self._wait("the gradients of all ranks"):
            reduce_scatter(mine, packed.view(-1))
        return list(mine.split([share_size(t.numel(), self.num_ranks) for t in tensors]))

    def whole(self, shares: Sequence[torch.Tensor], like: Sequence[torch.Tensor]) -> None:
        """Fills the tensors of `like` from everyone's shares of them: one all-gather."""
        mine = torch.cat(list(shares))
        gathered = mine.new_empty(self.num_ranks * mine.numel())
        self._count("all_gather", gathered)
        with self._wait("the weights of all ranks"):
            all_gather(gathered, mine)
        parts = gathered.view(self.num_ranks, -1).split([len(share) for share in shares], dim=1)
        for part, target in zip(parts, like, strict=True):
            target.view(-1).copy_(part.reshape(-1)[: target.numel()])

    def share_of(self, tensor: torch.Tensor) -> torch.Tensor:
        """This rank's share of a tensor that all ranks have, as `sum_to_shards` cuts it; a copy."""
        return pack([tensor], self.num_ranks)[self.rank].clone()

    def norm(self, norm: torch.Tensor) -> torch.Tensor:
        """The Euclidean norm of all ranks' vectors, of which this one's norm is given."""
        if self.is_one:
            return norm
        square = norm.to(torch.float64).square()
        with self._wait("the norm of all ranks"):
            dist.all_reduce(square, group=self.objects if square.device.type == "cpu" else None)
        return square.sqrt().to(norm.dtype)

    def any_of(self, flags: Sequence[bool]) -> list[bool]:
        """For each place whether any rank says so."""
        return [any(column) for column in zip(*self.gather(list(flags)), strict=True)]

    def as_dtensor(self, part: torch.Tensor, shape: Sequence[int]) -> DTensor:
        """This rank's rows of a tensor of `shape`, as torch.chunk cuts it, for DCP to save and to
        cut anew. Shares memory.
        """
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(
            part, self.mesh, [Shard(0)], run_check=False, shape=torch.Size(shape), stride=stride
        )

    def fully_shard(
        self,
        module: torch.nn.Module,
        name: str,
        dtype: torch.dtype,
        gradient_dtype: torch.dtype,
    ) -> None:
        """Cuts a module's parameters over the ranks, by rows (FSDP2). While it runs it has them
        whole, in `dtype`; gradients are summed over ranks in `gradient_dtype`. Modules inside come
        first, the one that holds all last. `name` says in messages which module waits.
        """
        policy = MixedPrecisionPolicy(dtype, gradient_dtype, cast_forward_inputs=False)
        shared = fully_shard(module, mesh=self.mesh, mp_policy=policy)
        shared.set_gradient_divide_factor(1.0)
        shared.set_force_sum_reduction_for_comms(True)  # gloo knows no factor
        gather = _Exchange(self, "all_gather", all_gather, f"the weights of {name}")
        scatter = _Exchange(self, "reduce_scatter", reduce_scatter, f"the gradients of {name}")
        shared.set_custom_all_gather(gather)  # pyright: ignore[reportArgumentType]
        shared.set_custom_reduce_scatter(scatter)  # pyright: ignore[reportArgumentType]

    def _count(self, what: str, tensor: torch.Tensor) -> None:
        self.sent_bytes[what] = self.sent_bytes.get(what, 0) + tensor.nbytes


@dataclass(frozen=True, slots=True)
class _Exchange:
    """A collective as FSDP calls it, counted, and known to the watchdog."""

    world: World
    name: str
    collective: Callable[..., Any]
    what: str

    def allocate(
        self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self, output_tensor: torch.Tensor, input_tensor: torch.Tensor, **settings: Any
    ) -> Any:
        self.world._count(self.name, max(output_tensor, input_tensor, key=torch.Tensor.numel))
        with self.world._wait(self.what):
            return self.collective(output_tensor, input_tensor, **settings)


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


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def save_parts(state: dict[str, Any], directory: Path, world: World) -> None:
    """Writes everyone's part of nested dictionaries of tensors to one directory, by torch's DCP;
    what all ranks hold alike is written once. Called by all ranks.
    """
    with first_failure():
        save(state, checkpoint_id=directory, process_group=world.objects, no_dist=world.is_one)


def load_parts(state: dict[str, Any], directory: Path, world: World) -> None:
    """Fills the tensors of `state` in place from what any number of processes saved.

    CheckpointError where it is not that of the same model and optimizer.
    """
    try:
        with first_failure():
            load(state, checkpoint_id=directory, process_group=world.objects, no_dist=world.is_one)
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{directory}: cannot be read ({error}); it belongs to another model, optimizer or "
            "version: remove it or use another run directory"
        ) from error


@contextmanager
def first_failure() -> Iterator[None]:
    """Raises what failed on the first rank on which DCP failed, instead of its collection."""
    try:
        yield
    except CheckpointException as collected:
        error, _ = collected.failures[min(collected.failures)]
        raise error from collected


def num_ranks_given() -> int:
    """Of the processes that torchrun, or `vibelite run`, started together with this one; 1 where
    neither did.
    """
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


@contextmanager
def joined_world(timeout_seconds: float) -> Iterator[World]:
    """This process's place among those that were started with it; a world of one where none were.

    Ends with all ranks where nothing went wrong, or where all met the leader's error.
    """
    if num_ranks_given() == 1:
        yield World()
        return
    world = join(timeout_seconds)
    assert world.watchdog is not None
    try:
        with world.watchdog.running():
            yield world
            world.barrier("the end of the run")
    except BaseException as error:
        world.watchdog.report_failure(error)
        raise
    dist.destroy_process_group()


def join(timeout_seconds: float) -> World:
    """Connects to the other ranks, as the environment of torchrun describes them."""
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        if local_rank >= torch.cuda.device_count():
            raise RecipeError(
                f"num_gpus: process {local_rank + 1} of this machine has no GPU of its own; it has "
                f"{torch.cuda.device_count()}"
            )
        torch.cuda.set_device(local_rank)
    store, rank, num_ranks = given_store(), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if has_gpu else "gloo",
        store=PrefixStore("tensors", store),
        rank=rank,
        world_size=num_ranks,
        timeout=timedelta(seconds=timeout_seconds),
    )
    mesh = DeviceMesh("cuda" if has_gpu else "cpu", list(range(num_ranks)))
    objects = dist.new_group(backend="gloo", timeout=OBJECT_TIMEOUT)
    num_nodes = num_ranks // int(os.environ.get("LOCAL_WORLD_SIZE", num_ranks))
    watchdog = Watchdog(store, rank, num_ranks, timeout_seconds=timeout_seconds)
    return World(rank, num_ranks, local_rank, num_nodes, store, watchdog, objects, mesh)


def num_devices() -> int:
    """GPUs of this machine; 0 on a CPU."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def host_store(listening: int, port: int) -> Any:
    """The store of a world on this machine, served by this process on a socket that listens."""
    return TCPStore(
        "127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listening
    )


def run_keys(store: Any, name: str, num_ranks: int) -> dict[int, Any]:
    """By rank what ranks left under `name` in the store that this process hosts."""
    view = PrefixStore(KEYS, store)
    return {
        rank: json.loads(view.get(f"{name}/{rank}"))
        for rank in range(num_ranks)
        if view.check([f"{name}/{rank}"])
    }


def given_store() -> Any:
    """A client of the store that this process's launcher serves, or its leader."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        store, _, _ = next(iter(rendezvous("env://")))
        return PrefixStore(KEYS, store)
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    prefix = KEYS if attempt == "0" else f"{KEYS}-{attempt}"
    return PrefixStore(prefix, TCPStore(address, port, is_master=False))
