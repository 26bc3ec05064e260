"""How prompts are cut into units, and that what several ranks sample is what one samples."""

from __future__ import annotations

import pickle
import threading
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from itertools import chain
from typing import Any

import pytest

from tests.policies import tiny_policy
from vibelite.ranks.ranks import Ranks
from vibelite.ranks.watchdog import Watchdog
from vibelite.rollout.engine import LengthMemory, SamplingSettings, generate
from vibelite.rollout.shared_engine import SampleTask, SharedEngine, cut_into_units
from vibelite.rollout.transformers_engine import TransformersEngine
from vibelite.types import Completion


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("num_prompts", [1, 5, 16, 33])
def test_units_are_all_prompts_once(num_prompts: int, num_ranks: int) -> None:
    expected = [float(index * 7 % 5) for index in range(num_prompts)]
    units = cut_into_units(range(num_prompts), expected, num_ranks, capacity=8)
    assert sorted(chain.from_iterable(units)) == list(range(num_prompts))
    assert all(units)
    assert max(map(len, units)) <= 8


def test_a_batch_that_one_engine_holds_is_shared_evenly_by_expected_length() -> None:
    expected = [8.0, 1.0, 1.0, 1.0, 7.0, 1.0, 1.0, 1.0]
    units = cut_into_units(range(8), expected, num_ranks=2, capacity=8)
    sums = sorted(sum(expected[prompt] for prompt in unit) for unit in units)
    assert sums == [10.0, 11.0]


@pytest.mark.parametrize("num_ranks", range(1, 7))
def test_prompts_of_unknown_length_leave_no_unit_empty(num_ranks: int) -> None:
    units = cut_into_units(range(4), [0.0] * 4, num_ranks, capacity=4)
    assert sorted(chain.from_iterable(units)) == [0, 1, 2, 3]
    assert min(map(len, units)) >= 1
    assert max(map(len, units)) - min(map(len, units)) <= 1


def test_the_longest_units_are_handed_out_first() -> None:
    expected = [1.0] * 4 + [9.0] * 4 + [5.0] * 4 + [2.0] * 4
    units = cut_into_units(range(16), expected, num_ranks=2, capacity=4)
    assert units == [[4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15], [0, 1, 2, 3]]


def test_no_rank_gets_more_turns_by_smaller_units() -> None:
    # Three batches on two ranks are two turns; halves of them would be three.
    assert len(cut_into_units(range(12), [1.0] * 12, num_ranks=2, capacity=4)) == 3


def test_a_prompt_is_expected_to_be_as_long_as_before_and_a_new_one_as_long_as_all() -> None:
    lengths = LengthMemory()
    assert lengths.expected([[1], [2]]) == [0.0, 0.0]
    for prompt, num_tokens in (([2], 10), ([4], 60), ([4], 120)):
        lengths.learn(prompt, num_tokens)
    assert lengths.expected([[1], [2], [4]]) == [50.0, 10.0, 90.0]


class Store:
    """What ranks share, in one process."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.counts: defaultdict[str, int] = defaultdict(int)

    def clone(self) -> Store:
        return self

    def add(self, key: str, amount: int) -> int:
        self.counts[key] += amount
        return self.counts[key]

    def set(self, key: str, value: Any) -> None:
        self.values[key] = value

    def get(self, key: str) -> Any:
        return self.values[key]

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)

    def delete_key(self, key: str) -> None:
        del self.values[key]


class Leader(Ranks):
    """A leader whose other rank works off a unit or two as soon as it is asked."""

    def __init__(self) -> None:
        self.rank, self.num_ranks, self.store = 0, 2, Store()
        self.watchdog = Watchdog(self.store, 0, 2, timeout_seconds=1e9)
        self.helper: SharedEngine | None = None
        self.num_helped = 0

    def delegate(self, task: SampleTask) -> None:
        assert self.helper is not None
        taken = self.store.add(f"sample/{task.number}/taken", len(task.units) // 2)
        self.store.counts[f"sample/{task.number}/taken"] = 0
        first_half = task.units[:taken]
        self.helper.help(replace(task, units=first_half))
        self.store.counts[f"sample/{task.number}/taken"] = taken
        self.num_helped += len(first_half)


@pytest.mark.parametrize("skip", [(), ((0, 1), (2, 0), (2, 1), (2, 2))])
def test_two_ranks_sample_what_one_samples(skip: tuple[tuple[int, int], ...]) -> None:
    policy = tiny_policy()
    prompts = [[5 + index, 6, 7 + index] for index in range(6)]
    settings = SamplingSettings(3, 10)
    engine = TransformersEngine(policy, stop_ids=[9], max_sequences=9)
    alone = {(p, s): c for p, s, c in engine.stream(prompts, settings, seed=4, skip=skip)}
    ranks = Leader()
    shared = SharedEngine(engine, ranks, 9, nullcontext)
    ranks.helper = SharedEngine(engine, ranks, 9, nullcontext)
    together = {(p, s): c for p, s, c in shared.stream(prompts, settings, seed=4, skip=skip)}
    assert ranks.num_helped
    assert together.keys() == alone.keys()
    for pair, completion in alone.items():
        assert together[pair].token_ids == completion.token_ids
        assert together[pair].sampler_logprobs == pytest.approx(completion.sampler_logprobs)


def test_a_sample_that_two_ranks_report_ends_the_call() -> None:
    """A count of what is missing would fall below 0, and the leader wait for ever."""
    ranks = Leader()
    engine = TransformersEngine(tiny_policy(), stop_ids=[9], max_sequences=9)
    shared = ranks.helper = SharedEngine(engine, ranks, 9, nullcontext)
    stream = shared.stream([[5, 6], [7, 8]], SamplingSettings(2, 4), seed=1)
    again = next(stream)
    place = ranks.store.add("sample/1/ended", 1)
    ranks.store.set(f"sample/1/{place}", pickle.dumps(again))
    with pytest.raises(AssertionError, match="sample . of prompt . came twice"):
        list(stream)


def test_an_abandoned_stream_tells_the_others_to_stop() -> None:
    ranks = Leader()
    engine = TransformersEngine(tiny_policy(), stop_ids=[9], max_sequences=9)
    shared = ranks.helper = SharedEngine(engine, ranks, 9, nullcontext)
    stream = shared.stream([[5, 6], [7, 8]], SamplingSettings(2, 4), seed=1)
    next(stream)
    stream.close()
    assert ranks.store.check(["sample/1/stop"])
    assert len(generate(shared, [[5, 6]], SamplingSettings(2, 4), seed=1)[0]) == 2


class Together:
    """The engine of one of two ranks that hold it together: neither samples alone."""

    def __init__(self, barrier: threading.Barrier) -> None:
        self.barrier = barrier
        self.seen: list[Any] = []

    def stream(self, prompts, settings, *, seed, skip=()):
        wanted = [(p, s) for p in range(len(prompts)) for s in range(settings.num_completions)]
        wanted = [pair for pair in wanted if pair not in skip]
        try:
            for prompt, sample in wanted:
                self.barrier.wait(timeout=30)
                self.seen.append((prompt, sample))
                yield prompt, sample, Completion((prompt, sample), (0.0, 0.0), "stop", "")
        finally:
            self.barrier.wait(timeout=30)
            self.seen.append("ended")


class WaitingStore(Store):
    """As torch's: whoever waits for a key gets it once another rank sets it."""

    def __init__(self) -> None:
        super().__init__()
        self.changed = threading.Condition()

    def set(self, key: str, value: Any) -> None:
        with self.changed:
            super().set(key, value)
            self.changed.notify_all()

    def wait(self, keys: list[str], timeout: timedelta) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.check(keys), timeout=30)


class Pair(Ranks):
    """What the leader delegates is done by the second rank of its engine, in a thread."""

    def __init__(self, rank: int, store: Store) -> None:
        self.rank, self.num_ranks, self.store = rank, 2, store
        self.watchdog = Watchdog(store, rank, 2, timeout_seconds=1e9)
        self.follower: SharedEngine | None = None
        self.threads: list[threading.Thread] = []

    def delegate(self, task: SampleTask) -> None:
        assert self.follower is not None
        thread = threading.Thread(target=self.follower.help, args=[task], daemon=True)
        thread.start()
        self.threads.append(thread)


def test_ranks_of_one_engine_sample_the_same_and_stop_at_the_same_completion() -> None:
    store, barrier = WaitingStore(), threading.Barrier(2)
    engines: list[Any] = [Together(barrier) for _ in range(2)]
    ranks = [Pair(rank, store) for rank in range(2)]
    leader, ranks[0].follower = (
        SharedEngine(engine, pair, 4, nullcontext, tensor_parallel=2)
        for engine, pair in zip(engines, ranks, strict=True)
    )
    prompts = [[1], [2], [3], [4], [5]]
    groups = generate(leader, prompts, SamplingSettings(2, 4), seed=1)
    assert [[one.token_ids for one in group] for group in groups] == [
        [(prompt, 0), (prompt, 1)] for prompt in range(5)
    ]
    stream = leader.stream(prompts, SamplingSettings(2, 4), seed=1)
    for _ in range(3):
        next(stream)
    stream.close()
    for thread in ranks[0].threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    # Two prompts a unit, one engine: three units, then three completions of the first one.
    assert engines[0].seen == engines[1].seen
    assert len(engines[0].seen) == 10 + 3 + 3 + 1
    assert not [key for key in store.values if "word" in key]
