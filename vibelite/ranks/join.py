"""How a process finds those that were started with it, by torchrun or by `ranks.launch`."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.rendezvous import rendezvous

from vibelite.errors import RecipeError
from vibelite.ranks.ranks import ONE_RANK, Ranks, num_nodes, num_ranks_given
from vibelite.ranks.watchdog import Watchdog
from vibelite.ranks.world import World

# Of the exchange of objects: how long a rank may take for its own work is the watchdog's business.
OBJECT_TIMEOUT = timedelta(days=7)
# Of everything that VibeLite keeps in the store.
KEYS = "vibelite"


@contextmanager
def joined_world(
    timeout_seconds: float, waiting: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Iterator[Ranks]:
    """The processes that were started with this one, or this one alone; `waiting` is around every
    wait for others.
    """
    if num_ranks_given() == 1:
        yield ONE_RANK
        return
    world = join(timeout_seconds, waiting)
    try:
        with world.watchdog.running():
            yield world
            world.barrier("the end of the run")
    except BaseException as error:
        world.watchdog.report_failure(error)
        raise
    dist.destroy_process_group()


def join(timeout_seconds: float, waiting: Callable[[], AbstractContextManager[None]]) -> World:
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
    store, rank, num_ranks = given_store(), int(os.environ["RANK"]), num_ranks_given()
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if has_gpu else "gloo",
        store=PrefixStore("tensors", store),
        rank=rank,
        world_size=num_ranks,
        timeout=timedelta(seconds=timeout_seconds),
    )
    mesh = DeviceMesh("cuda" if has_gpu else "cpu", list(range(num_ranks)))
    objects = dist.new_group(backend="gloo", timeout=OBJECT_TIMEOUT)
    states = dist.new_group(backend="gloo", timeout=OBJECT_TIMEOUT)
    watchdog = Watchdog(store, rank, num_ranks, timeout_seconds=timeout_seconds)
    return World(
        rank,
        num_ranks,
        num_nodes(),
        store,
        watchdog,
        objects=objects,
        states=states,
        mesh=mesh,
        waiting=waiting,
    )


def require_shared(directory: Path, world: Ranks) -> None:
    """RecipeError, on all ranks, unless all machines see one run directory."""
    if world.num_nodes == 1:
        return
    path = directory / world.from_leader(lambda: f".seen-{secrets.token_hex(8)}")
    with world.leader_first():
        if world.is_leader:
            path.touch()
    seen = world.gather((path.exists(), socket.gethostname()))
    if world.is_leader:
        path.unlink()
    if blind := [(rank, host) for rank, (sees, host) in enumerate(seen) if not sees]:
        rank, host = blind[0]
        error = RecipeError(
            f"{directory}: rank {rank} on {host} does not see the leader's run directory there; "
            "name one that all machines share with --run-dir"
        )
        error.printed_by_leader = not world.is_leader
        raise error


def num_devices() -> int:
    """GPUs of this machine; 0 on a CPU."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def host_store(listening: int, port: int) -> Any:
    """The store of a world on this machine, served by this process on a socket that listens."""
    store = TCPStore(
        "127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listening
    )
    return PrefixStore(KEYS, store)


def given_store() -> Any:
    """A client of the store that this process's launcher serves, or its leader."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        store, _, _ = next(iter(rendezvous("env://")))
        return PrefixStore(KEYS, store)
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    prefix = KEYS if attempt == "0" else f"{KEYS}-{attempt}"
    return PrefixStore(prefix, TCPStore(address, port, is_master=False))
