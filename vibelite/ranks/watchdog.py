"""Every rank writes what it does to the store once a second. One that is no longer heard of, ranks
that exchange things in different orders or wait for each other in different exchanges, or a run in
which no rank makes progress, end the run with one message instead of a hang.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from zlib import crc32

from vibelite.errors import PeerLost, VibeLiteError

SECONDS_PER_BEAT = 1.0
# Looks in a row at a rank that has not beaten: it is gone. Below the 30 s that a launcher gives.
LOST_BEATS = 20
# Looks in a row at ranks that all wait, but not in the same exchange. One that sends much may for a
# while be in an exchange that others have left.
MISMATCH_BEATS = 30
# Of this many exchanges the order is compared: a GPU is told of many before it waits in one.
NUM_RECENT = 64
EXIT_FAILED = 1


class Watchdog:
    """One rank's side of it; `store` is shared by all ranks."""

    def __init__(
        self,
        store: Any,
        rank: int,
        num_ranks: int,
        *,
        timeout_seconds: float,
        end: Callable[[int], Any] = os._exit,
    ) -> None:
        self._store = store.clone()  # calls of one client wait for each other
        self._rank = rank
        self._num_ranks = num_ranks
        self._timeout_seconds = timeout_seconds
        self._end = end
        self._beats = 0
        self._progress = 0
        self._waits_for = ""
        self._last_wait = ""
        self._num_exchanges = 0
        self._recent: tuple[tuple[int, int], ...] = ()
        self._history = 0  # a checksum of all exchanges so far, in their order
        self.sample = ""
        """What is being sampled or trained, named by whoever does it."""
        self.describe: Callable[[], str] = lambda: "start"
        self._ended = threading.Event()
        self._beat()

    def note(self, sample: str) -> None:
        """Work goes on, with `sample`."""
        self.sample = sample
        self._progress += 1

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Around a wait for other ranks. To look again for the same thing is no progress."""
        before, self._waits_for = self._waits_for, what
        self._progress += what != self._last_wait
        self._last_wait = what
        try:
            yield
        finally:
            self._waits_for = before

    @contextmanager
    def exchanging(self, what: str) -> Iterator[None]:
        """Around an exchange that all ranks take part in, in the same order."""
        self._num_exchanges += 1
        self._progress += 1
        self._history = crc32(what.encode(), self._history)
        newest = (self._num_exchanges, self._history)
        self._recent = (*self._recent[1 - NUM_RECENT :], newest)
        with self.waiting(what):
            yield

    @property
    def place(self) -> str:
        """Where this rank is: stage, step, span, sample."""
        return ", ".join(filter(None, [self.describe(), self.sample]))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Beats and watches from another thread; what ends well inside is no failure to others."""
        thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        thread.start()
        try:
            yield
            self._beats = -1
            self._beat()
        finally:
            self._ended.set()
            thread.join()

    def report_failure(self, error: BaseException) -> None:
        """Leaves why this rank ends where the launcher looks for it, unless another rank is why."""
        if isinstance(error, PeerLost) or getattr(error, "printed_by_leader", False):
            return
        self._report(str(error), getattr(error, "exit_code", EXIT_FAILED), error)

    def _report(self, message: str, code: int, error: BaseException | None = None) -> None:
        failure = {"message": message, "exit_code": code, "place": self.place}
        failure["is_known"] = isinstance(error, VibeLiteError)
        if error is not None and not failure["is_known"]:
            failure["message"] = "".join(traceback.format_exception_only(error)).strip()
        try:
            self._store.set(f"failure/{self._rank}", json.dumps(failure))
        except RuntimeError:
            print(f"rank {self._rank}, {self.place}: {message}", file=sys.stderr)

    def _beat(self) -> None:
        state = {
            "beats": self._beats,
            "progress": self._progress,
            "place": self.place,
            "waits_for": self._waits_for,
            "exchanges": self._num_exchanges,
            "recent": self._recent,
        }
        self._store.set(f"rank/{self._rank}", json.dumps(state))
        if self._beats >= 0:
            self._beats += 1

    def _watch(self) -> None:
        seen: dict[int, dict[str, Any]] = {}
        unchanged = dict.fromkeys(range(self._num_ranks), 0)
        num_still = 0
        while not self._ended.wait(SECONDS_PER_BEAT):
            try:
                self._beat()
                states = said_by_rank(self._store, "rank", self._num_ranks)
            except RuntimeError:  # the launcher, or the node that holds the store, is gone
                print(f"rank {self._rank}: lost the store of the run", file=sys.stderr)
                self._end(EXIT_FAILED)
                return
            has_moved = any(was_at(states, rank) != was_at(seen, rank) for rank in states)
            num_still = 0 if has_moved else num_still + 1
            for rank, state in states.items():
                has_beaten = state["beats"] < 0 or state["beats"] != seen.get(rank, {}).get("beats")
                unchanged[rank] = 0 if has_beaten else unchanged[rank] + 1
            seen = states
            lost = [rank for rank, count in unchanged.items() if count > LOST_BEATS]
            if lost:
                self._give_up(f"rank {lost[0]} has not been heard of for {LOST_BEATS} s", states)
            elif are_in_another_order(states):
                self._give_up("ranks do not exchange the same things in the same order", states)
            elif num_still > MISMATCH_BEATS and wait_apart(states, self._num_ranks):
                self._give_up("ranks wait for each other in different exchanges", states)
            elif num_still * SECONDS_PER_BEAT > self._timeout_seconds:
                self._give_up(f"no rank made progress for {self._timeout_seconds:g} s", states)

    def _give_up(self, why: str, states: dict[int, dict[str, Any]]) -> None:
        self._report(f"{why}; {table(states)}", EXIT_FAILED)
        print(f"rank {self._rank}: {why}; {table(states)}", file=sys.stderr)
        self._ended.set()
        self._end(EXIT_FAILED)


def said_by_rank(store: Any, name: str, num_ranks: int) -> dict[int, dict[str, Any]]:
    """What every rank last left under `name`; those that left nothing are left out."""
    ranks = [rank for rank in range(num_ranks) if store.check([f"{name}/{rank}"])]
    return {rank: json.loads(store.get(f"{name}/{rank}")) for rank in ranks}


def was_at(states: dict[int, dict[str, Any]], rank: int) -> tuple[Any, Any]:
    """What changes as a rank goes on."""
    state = states.get(rank, {})
    return state.get("progress"), state.get("place")


def are_in_another_order(states: dict[int, dict[str, Any]]) -> bool:
    """Whether ranks' exchanges up to one of the recent ones were not the same."""
    seen: dict[int, int] = {}
    recent = [exchange for state in states.values() for exchange in state["recent"]]
    return any(seen.setdefault(number, history) != history for number, history in recent)


def wait_apart(states: dict[int, dict[str, Any]], num_ranks: int) -> bool:
    """Whether all ranks wait for others, but not all in the same exchange."""
    places = {(state["exchanges"], state["waits_for"]) for state in states.values()}
    return len(states) == num_ranks and len(places) > 1 and all(what for _, what in places)


def table(states: dict[int, dict[str, Any]]) -> str:
    """Where every rank is, and what it waits for."""
    lines = []
    for rank, state in sorted(states.items()):
        what, number = state["waits_for"], state["exchanges"]
        wait = f", waits for {what} (exchange {number})" if what else ""
        lines.append(f"rank {rank}: {state['place']}{wait}")
    return "; ".join(lines)
