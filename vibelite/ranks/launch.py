"""`vibelite run` on several GPUs of this machine: one process each, started, watched and ended
together, as torchrun would; several nodes are torchrun's.

When a rank fails the others are ended soon after, and one message names the rank, what it was doing
and why. Torch's own `start_processes` ends all at once, before the others have said why, and with
SIGTERM, which asks a run to save.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from vibelite.errors import RecipeError
from vibelite.ranks.watchdog import said_by_rank

POLL_SECONDS = 0.1
# For ranks to end by themselves after another did, and to say why.
GRACE_SECONDS = 5.0
LOG_LINES = 20
EXIT_FAILED = 1


@dataclass(frozen=True, slots=True)
class Rank:
    """One process of the run."""

    number: int
    process: subprocess.Popen[bytes]
    log: Path | None
    """Where what it prints goes; None for the leader, which prints here."""


def run_ranks(num_ranks: int, command: Sequence[str]) -> int:
    """Runs `command` as `num_ranks` ranks; the exit code of the one that decided how it ended.
    RecipeError where this machine has GPUs, but fewer.
    """
    from vibelite.ranks.join import host_store, num_devices

    if 0 < num_devices() < num_ranks:
        raise RecipeError(f"num_gpus: {num_ranks}, but this machine has {num_devices()}")
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    with TemporaryDirectory(prefix="vibelite-ranks-") as directory:
        logs = [Path(directory) / f"rank-{rank}.log" for rank in range(num_ranks)]
        ranks = list(start(command, port, logs))
        # Ranks connect once the store is served, which takes as long as torch's import.
        store = host_store(listening.detach(), port)
        with forwarding_signals(ranks):
            killed = wait_for_all(ranks)
        return outcome(ranks, killed, store)


def start(command: Sequence[str], port: int, logs: Sequence[Path]) -> Iterator[Rank]:
    """Starts the processes, each in a session of its own: signals of the terminal are forwarded."""
    num_ranks = len(logs)
    threads = max(1, (os.cpu_count() or 1) // num_ranks)
    for number in range(num_ranks):
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        environment |= place(number, num_ranks, port)
        output: IO[bytes] | None = open(logs[number], "wb") if number else None  # noqa: SIM115
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        if output is not None:
            output.close()
        yield Rank(number, process, logs[number] if number else None)


def place(number: int, num_ranks: int, port: int) -> dict[str, str]:
    """The environment by which torch knows a process's place, as torchrun sets it."""
    return {
        "RANK": str(number),
        "LOCAL_RANK": str(number),
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }


@contextmanager
def forwarding_signals(ranks: Sequence[Rank]) -> Iterator[None]:
    """SIGTERM and SIGINT ask the leader to stop at a safe place; a second one ends all at once."""
    received: list[int] = []

    def forward(number: int, frame: object) -> None:
        received.append(number)
        if len(received) == 1:
            ranks[0].process.send_signal(signal.SIGTERM)
        else:
            kill(ranks)

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, forward) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_for_all(ranks: Sequence[Rank]) -> set[int]:
    """The ranks that had to be killed, soon after one failed or the leader ended."""
    deadline: float | None = None
    while running := [rank for rank in ranks if rank.process.poll() is None]:
        has_failed = any(rank.process.returncode for rank in ranks)
        if deadline is None and (has_failed or ranks[0] not in running):
            deadline = time.monotonic() + GRACE_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            kill(running)
            return {rank.number for rank in running}
        time.sleep(POLL_SECONDS)
    return set()


def kill(ranks: Sequence[Rank]) -> None:
    for rank in ranks:
        if rank.process.poll() is None:
            rank.process.kill()
            rank.process.wait()


def outcome(ranks: Sequence[Rank], killed: set[int], store: Any) -> int:
    """The exit code of the run; says on stderr what ended it, unless the leader did."""
    failed = [rank for rank in ranks if rank.process.returncode and rank.number not in killed]
    if not failed:
        return 0 if not killed else EXIT_FAILED
    said = said_by_rank(store, "failure", len(ranks))
    places = said_by_rank(store, "rank", len(ranks))
    for rank in failed:
        if rank.process.returncode < 0:
            name = signal.Signals(-rank.process.returncode).name
            where = places.get(rank.number, {}).get("place", "starting")
            report(f"rank {rank.number}, {where}: killed by {name}", rank)
            return EXIT_FAILED
    causes = [rank for rank in failed if rank.number in said]
    cause = causes[0] if causes else failed[0]
    failure = said.get(cause.number)
    if failure is None:
        report(f"rank {cause.number}: ended with exit code {cause.process.returncode}", cause)
        return cause.process.returncode
    if cause.number or not failure["is_known"]:
        where, why = failure["place"], failure["message"]
        report(f"rank {cause.number}, {where}: {why}", None if failure["is_known"] else cause)
    return failure["exit_code"]


def report(message: str, rank: Rank | None) -> None:
    """Prints what ended the run, after the last lines of the rank's own output."""
    if rank is not None and rank.log is not None:
        lines = rank.log.read_text(encoding="utf-8", errors="replace").splitlines()
        print("\n".join(lines[-LOG_LINES:]), file=sys.stderr)
    print(f"{message}; the same command goes on from what was saved", file=sys.stderr)
