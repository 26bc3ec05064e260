"""How prompts are cut into units, and that what several ranks sample is what one samples."""

from __future__ import annotations

from collections import defaultdict
from contextlib import nullcontext
from itertools import chain
from typing import Any

import pytest

from tests.policies import tiny_policy
from vibelite.rollout.engine import SamplingSettings, generate
from vibelite.rollout.shared_engine import SampleTask, SharedEngine, cut_into_units
from vibelite.rollout.transformers_engine import TransformersEngine
from vibelite.training.watchdog import Watchdog


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


def test_the_longest_units_are_handed_out_first() -> None:
    expected = [1.0] * 4 + [9.0] * 4 + [5.0] * 4 + [2.0] * 4
    units = cut_into_units(range(16), expected, num_ranks=2, capacity=4)
    assert units == [[4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15], [0, 1, 2, 3]]


def test_no_rank_gets_more_turns_by_smaller_units() -> None:
    # Three batches on two ranks are two turns; halves of them would be three.
    assert len(cut_into_units(range(12), [1.0] * 12, num_ranks=2, capacity=4)) == 3


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


class Ranks:
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
        part = SampleTask(
            task.number, task.prompts, task.settings, task.seed, task.skip, first_half, task.names
        )
        self.helper.help(part)
        self.store.counts[f"sample/{task.number}/taken"] = taken
        self.num_helped += len(first_half)


@pytest.mark.parametrize("skip", [(), ((0, 1), (2, 0), (2, 1), (2, 2))])
def test_two_ranks_sample_what_one_samples(skip: tuple[tuple[int, int], ...]) -> None:
    policy = tiny_policy()
    prompts = [[5 + index, 6, 7 + index] for index in range(6)]
    settings = SamplingSettings(3, 10)
    engine = TransformersEngine(policy, stop_ids=[9], max_sequences=9)
    alone = {(p, s): c for p, s, c in engine.stream(prompts, settings, seed=4, skip=skip)}
    ranks = Ranks()
    shared = SharedEngine(engine, ranks, 9, nullcontext)
    ranks.helper = SharedEngine(engine, ranks, 9, nullcontext)
    together = {(p, s): c for p, s, c in shared.stream(prompts, settings, seed=4, skip=skip)}
    assert ranks.num_helped
    assert together.keys() == alone.keys()
    for pair, completion in alone.items():
        assert together[pair].token_ids == completion.token_ids
        assert together[pair].sampler_logprobs == pytest.approx(completion.sampler_logprobs)


def test_an_abandoned_stream_tells_the_others_to_stop() -> None:
    ranks = Ranks()
    engine = TransformersEngine(tiny_policy(), stop_ids=[9], max_sequences=9)
    shared = ranks.helper = SharedEngine(engine, ranks, 9, nullcontext)
    stream = shared.stream([[5, 6], [7, 8]], SamplingSettings(2, 4), seed=1)
    next(stream)
    stream.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert ranks.store.check(["sample/1/stop"])
    assert len(generate(shared, [[5, 6]], SamplingSettings(2, 4), seed=1)[0]) == 2
