"""The engines of all ranks as a single one: the leader's `stream` hands prompts out and yields what
any engine samples.

A rank that is done takes the next unit: prompts that one engine samples at the same time. Random
numbers belong to a prompt and a sample, so completions depend on the rank that samples them by
rounding alone. Where several ranks hold an engine together, the first of them takes units, reports,
and decides after every completion whether to go on; the others follow it.
"""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import count, product
from typing import Any

from vibelite.ranks.ranks import Ranks
from vibelite.rollout.engine import LengthMemory, RolloutEngine, SamplingSettings
from vibelite.types import Completion

Pair = tuple[int, int]
Sampled = Generator[tuple[int, int, Completion], None, None]
# While nothing arrives from other ranks.
POLL_SECONDS = 0.005
# To wait for the first rank's decision; the watchdog ends a wait that is too long.
WORD_TIMEOUT = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class SampleTask:
    """One call of `stream`, cut into units of prompts' indices."""

    number: int
    prompts: list[list[int]]
    settings: SamplingSettings
    seed: int
    skip: frozenset[Pair]
    units: list[list[int]]

    @property
    def pairs(self) -> Iterator[Pair]:
        """Every (prompt, sample), those in `skip` too."""
        return product(range(len(self.prompts)), range(self.settings.num_completions))


@dataclass(slots=True)
class SharedEngine:
    """The leader streams; the other ranks `help` with each task that it delegates."""

    own: RolloutEngine
    ranks: Ranks
    max_sequences: int
    """How many sequences one engine decodes at the same time."""
    waiting: Callable[[], Any]
    """Makes a context manager around the wait for other ranks."""
    tensor_parallel: int = 1
    """How many consecutive ranks hold one engine together."""
    _lengths: LengthMemory = field(default_factory=LengthMemory)

    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        settings: SamplingSettings,
        *,
        seed: int,
        skip: Collection[Pair] = (),
    ) -> Sampled:
        """As `RolloutEngine.stream`, on all ranks; called by the leader alone."""
        task = self._task(prompts, settings, seed, frozenset(skip))
        self.ranks.delegate(task)
        try:
            with closing(self._collect(task)) as collected:
                for prompt, sample, completion in collected:
                    self._lengths.learn(prompts[prompt], len(completion.token_ids))
                    yield prompt, sample, completion
        finally:
            self.ranks.store.set(f"sample/{task.number}/stop", "")

    def _task(
        self,
        prompts: Sequence[Sequence[int]],
        settings: SamplingSettings,
        seed: int,
        skip: frozenset[Pair],
    ) -> SampleTask:
        """The call cut into units of the prompts of which a sample is wanted."""
        samples = range(settings.num_completions)
        wanted = [
            p for p in range(len(prompts)) if any((p, sample) not in skip for sample in samples)
        ]
        expected = self._lengths.expected(prompts)
        num_engines = self.ranks.num_ranks // self.tensor_parallel
        capacity = max(1, self.max_sequences // settings.num_completions)
        return SampleTask(
            number=self.ranks.store.add("sample/tasks", 1),
            prompts=[list(prompt) for prompt in prompts],
            settings=settings,
            seed=seed,
            skip=skip,
            units=cut_into_units(wanted, expected, num_engines, capacity),
        )

    def help(self, task: SampleTask) -> None:
        """Samples units of the leader's task until none is left, or the leader stops."""
        store, reports = self.ranks.store, self.ranks.rank % self.tensor_parallel == 0
        for result in self._own_share(task):
            if not reports:
                continue
            place = store.add(f"sample/{task.number}/ended", 1)
            store.set(f"sample/{task.number}/{place}", pickle.dumps(result))

    def _own_share(self, task: SampleTask) -> Sampled:
        """The completions of the units that this rank takes, as they end."""
        store, key = self.ranks.store, f"sample/{task.number}"
        words = count()

        def agreed(decide: Callable[[], int]) -> int:
            return self._first_ranks(f"{key}/word/{next(words)}", decide)

        while (number := agreed(lambda: store.add(f"{key}/taken", 1) - 1)) < len(task.units):
            unit = set(task.units[number])
            self.ranks.watchdog.note(f"prompt {min(unit) + 1}")
            skip = task.skip | {pair for pair in task.pairs if pair[0] not in unit}
            drawn = self.own.stream(task.prompts, task.settings, seed=task.seed, skip=skip)
            with closing(drawn):  # pyright: ignore[reportArgumentType]
                for prompt, sample, completion in drawn:
                    self.ranks.watchdog.note(f"prompt {prompt + 1}, sample {sample + 1}")
                    is_last = True
                    try:
                        yield prompt, sample, completion
                        is_last = store.check([f"{key}/stop"])
                    finally:  # the others must know when the leader's stream is closed
                        is_last = agreed(partial(int, is_last))
                    if is_last:
                        return
        self.ranks.watchdog.note("")

    def _first_ranks(self, key: str, decide: Callable[[], int]) -> int:
        """What `decide` returns on the first of the ranks that hold this engine, given to all of
        them; `key` must be new at every call.
        """
        store, rank = self.ranks.store, self.ranks.rank
        first = rank - rank % self.tensor_parallel
        if rank == first:
            number = decide()
            for other in range(first + 1, first + self.tensor_parallel):
                store.set(f"{key}/{other}", str(number))
            return number
        with self.waiting(), self.ranks.watchdog.waiting("the first rank of its engine"):
            store.wait([f"{key}/{rank}"], WORD_TIMEOUT)
        number = int(store.get(f"{key}/{rank}"))
        store.delete_key(f"{key}/{rank}")
        return number

    def _collect(self, task: SampleTask) -> Sampled:
        """What all ranks sample of the task, in the order in which it arrives here."""
        store, key = self.ranks.store, f"sample/{task.number}"
        missing = set(task.pairs) - task.skip
        num_read = 0

        def counted(result: tuple[int, int, Completion]) -> tuple[int, int, Completion]:
            prompt, sample, _ = result
            assert (prompt, sample) in missing, (
                f"sample {sample + 1} of prompt {prompt + 1} came twice, or was not asked for"
            )
            missing.remove((prompt, sample))
            return result

        def arrived() -> Sampled:
            nonlocal num_read
            for place in range(num_read + 1, store.add(f"{key}/ended", 0) + 1):
                result = store.get(f"{key}/{place}")  # waits for the value behind the number
                store.delete_key(f"{key}/{place}")
                num_read = place
                yield counted(pickle.loads(result))

        with closing(self._own_share(task)) as own_share:
            for own in own_share:
                yield counted(own)
                yield from arrived()
        while missing:
            before = len(missing)
            yield from arrived()
            if len(missing) == before:
                with self.waiting(), self.ranks.watchdog.waiting("completions of other ranks"):
                    time.sleep(POLL_SECONDS)

    def load_weights(self, version: int) -> None:
        self.own.load_weights(version)

    def sleep(self) -> None:
        self.own.sleep()

    def wake(self) -> None:
        self.own.wake()

    def close(self) -> None:
        self.own.close()

    def metrics(self) -> dict[str, float]:
        return self.own.metrics()


def cut_into_units(
    prompts: Sequence[int], expected: Sequence[float], num_ranks: int, capacity: int
) -> list[list[int]]:
    """Units of prompts for `num_ranks` to take in turn, the longest first; `expected[prompt]` is
    the length of one of its completions.

    One engine samples `capacity` prompts side by side, and hardly faster when there are fewer: such
    a batch is split only where no rank gets more turns by it, into parts of about equal length.

    >>> cut_into_units([0, 1, 2, 3], [5.0, 1.0, 4.0, 2.0], num_ranks=2, capacity=4)
    [[0, 1], [2, 3]]
    """
    if not prompts:
        return []
    chunks = [prompts[start : start + capacity] for start in range(0, len(prompts), capacity)]
    turns = math.ceil(len(chunks) / num_ranks)
    per_chunk = num_ranks * turns // len(chunks)
    units: list[list[int]] = []
    for chunk in chunks:
        parts: list[list[int]] = [[] for _ in range(min(per_chunk, len(chunk)))]
        room = math.ceil(len(chunk) / len(parts))
        for prompt in sorted(chunk, key=lambda prompt: (-expected[prompt], prompt)):
            free = [part for part in parts if len(part) < room]
            least = min(free, key=lambda part: (sum(expected[p] for p in part), len(part)))
            least.append(prompt)
        units += [sorted(part) for part in parts if part]
    return sorted(units, key=lambda unit: -sum(expected[prompt] for prompt in unit))
