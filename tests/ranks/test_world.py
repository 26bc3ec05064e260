"""How tensors are cut, what one process and the leader by itself do, and the watchdog; processes
are in tests/distributed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.policies import random_sequences, tiny_policy
from vibelite.data.batching import TrainingSequence, share_by_tokens
from vibelite.errors import RecipeError, VibeLiteError
from vibelite.models.policy import TrainedAdapter
from vibelite.ranks import watchdog
from vibelite.ranks.full_sharding import fully_sharded
from vibelite.ranks.join import require_shared
from vibelite.ranks.ranks import Ranks
from vibelite.ranks.watchdog import (
    LOST_BEATS,
    Watchdog,
    are_in_another_order,
    said_by_rank,
    wait_apart,
)
from vibelite.ranks.world import World, chunk_cat, pad, rows_of, unpack
from vibelite.recipe.stage_section import Optimizer
from vibelite.training.optim import PolicyOptimizer


class Store:
    """A store of this process."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def clone(self) -> Store:
        return self

    def set(self, key: str, value: str) -> None:
        self.values[key] = value

    def get(self, key: str) -> bytes:
        return self.values[key].encode()

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)


def two_ranks(rank: int = 0) -> World:
    store = Store()
    dog = Watchdog(store, rank, 2, timeout_seconds=1e9)
    return World(rank, 2, store=store, watchdog=dog)


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4, 8])
def test_rows_of_all_ranks_put_together_are_the_tensors(num_ranks: int) -> None:
    tensors = [torch.arange(7.0), torch.full((1,), 5.0), torch.arange(1.0, 41.0).view(5, 2, 4)]
    packed = chunk_cat(tensors, 0, num_ranks)
    shapes = [tensor.shape for tensor in tensors]
    by_rank = [unpack(packed[rank], shapes, num_ranks, rank) for rank in range(num_ranks)]
    for rank, parts in enumerate(by_rank):
        for part, tensor in zip(parts, tensors, strict=True):
            assert torch.equal(part, rows_of(tensor, num_ranks, rank))
        assert torch.equal(pad(parts, shapes, num_ranks), packed[rank])
    for index, tensor in enumerate(tensors):
        assert torch.equal(torch.cat([parts[index] for parts in by_rank]), tensor)


def test_an_adapters_frozen_weights_are_not_cut() -> None:
    policy = tiny_policy()
    adapted = replace(policy, adapter=TrainedAdapter(Path("start"), four_bit=False))
    with pytest.raises(RecipeError, match="use parallel.sharding: optimizer"):
        fully_sharded(adapted, two_ranks(), dtype=torch.float32, gradient_dtype=torch.float32)


def test_every_sequence_is_trained_on_by_one_rank_and_tokens_are_even() -> None:
    sequences = random_sequences(40, longest=50)
    shares = share_by_tokens(sequences, 4)
    assert sorted(id(s) for share in shares for s in share) == sorted(map(id, sequences))
    tokens = [sum(len(s.token_ids) for s in share) for share in shares]
    assert max(tokens) - min(tokens) <= 50
    assert share_by_tokens(sequences, 1) == [sequences]
    long, *short = (TrainingSequence([5] * length, 1) for length in (6, 2, 2, 2))
    assert share_by_tokens([*short, long], 2) == [[long], short]


def test_the_leader_at_work_concerns_the_others_only_by_what_it_delegates(monkeypatch) -> None:
    world = two_ranks()
    said: list[Any] = []
    monkeypatch.setattr(world, "_send", said.append)
    leading = world.leading

    def produce() -> list[int]:
        leading.delegate("work")
        leading.barrier("nobody waits here")
        return leading.gather(1) + [leading.from_leader(lambda: 2)]

    assert world.from_leader(produce) == [1, 2]
    assert said == [("task", "work"), ("result", [1, 2])]
    assert not leading.is_one and leading.num_ranks == 2


def test_the_leaders_error_is_raised_on_every_rank(monkeypatch) -> None:
    messages = iter([("task", "first"), ("error", RecipeError("no room"))])
    world = two_ranks(rank=1)
    monkeypatch.setattr(world, "_send", lambda _: next(messages))
    done: list[Any] = []
    with pytest.raises(RecipeError, match="no room") as raised:
        world.from_leader(lambda: pytest.fail("the leader's work"), meanwhile=done.append)
    assert done == ["first"]
    assert raised.value.printed_by_leader and not RecipeError("another").printed_by_leader


@pytest.mark.parametrize("kind", ["muon", "adamw_8bit", "adamw_cpu"])
def test_other_optimizers_are_refused_on_several_ranks(kind: Any) -> None:
    with pytest.raises(RecipeError, match=f"optimizer.kind {kind}.*num_gpus: 1"):
        optimizer = Optimizer(lr=1e-3, kind=kind)
        PolicyOptimizer(tiny_policy(), optimizer, num_steps=1, world=two_ranks())


def state(beats: int, place: str, waits_for: str = "", exchanges: int = 0, recent: Any = ()) -> str:
    said = {"beats": beats, "progress": 0, "place": place, "waits_for": waits_for}
    return json.dumps(said | {"exchanges": exchanges, "recent": recent})


def watch_until_end(
    monkeypatch: pytest.MonkeyPatch, store: Store, timeout: float, exchanges: Sequence[str] = ()
) -> list[int]:
    """The exit codes with which rank 0 of two ended itself."""
    monkeypatch.setattr(watchdog, "SECONDS_PER_BEAT", 0.01)
    codes: list[int] = []
    dog = Watchdog(store, 0, 2, timeout_seconds=timeout, end=codes.append)
    dog.describe = lambda: "stage 'mgpo', step 3, wait"
    for what in exchanges:
        with dog.exchanging(what):
            pass
    with dog.waiting("the gradients of all ranks"):
        dog._watch()
    return codes


def test_a_rank_that_is_not_heard_of_any_more_ends_the_others(monkeypatch, capsys) -> None:
    store = Store()
    store.set("rank/1", state(7, "stage 'mgpo', step 3, rollout, p-17, sample 2"))
    assert watch_until_end(monkeypatch, store, timeout=1e9) == [1]
    said = capsys.readouterr().err
    assert f"rank 1 has not been heard of for {LOST_BEATS} s" in said
    assert "rank 1: stage 'mgpo', step 3, rollout, p-17, sample 2" in said
    assert json.loads(store.get("failure/0"))["place"] == "stage 'mgpo', step 3, wait"


def test_without_progress_on_any_rank_a_table_says_who_waits_where(monkeypatch, capsys) -> None:
    store = Store()
    store.set("rank/1", state(-1, "stage 'mgpo', step 3, train", "the leader's word"))
    assert watch_until_end(monkeypatch, store, timeout=0.05) == [1]
    said = capsys.readouterr().err
    assert "no rank made progress for 0.05 s" in said
    assert "rank 0: stage 'mgpo', step 3, wait, waits for the gradients of all ranks" in said
    assert "rank 1: stage 'mgpo', step 3, train, waits for the leader's word" in said


def test_ranks_that_wait_for_each_other_end_long_before_the_timeout(monkeypatch, capsys) -> None:
    store = Store()
    store.set("rank/1", state(-1, "train", "the gradients of layer 1", exchanges=3))
    assert watch_until_end(monkeypatch, store, timeout=2.0) == [1]
    said = capsys.readouterr().err
    assert "ranks wait for each other in different exchanges" in said
    assert "rank 1: train, waits for the gradients of layer 1 (exchange 3)" in said


def test_another_order_of_exchanges_ends_ranks_that_do_not_wait(monkeypatch, capsys) -> None:
    """As on a GPU, which is told of exchanges that it has not come to."""
    store = Store()
    store.set("rank/1", state(-1, "stage 'mgpo', step 3, train", recent=[(1, 17), (2, 18)]))
    assert watch_until_end(monkeypatch, store, timeout=2.0, exchanges=["weights"]) == [1]
    assert "ranks do not exchange the same things in the same order" in capsys.readouterr().err
    dog = Watchdog(store, 1, 2, timeout_seconds=1)
    with dog.exchanging("weights"):
        dog._beat()
    assert not are_in_another_order(said_by_rank(store, "rank", 2))


def test_what_ranks_wait_for_is_compared_only_where_all_wait() -> None:
    def waits(*places: tuple[int, str]) -> bool:
        pairs = [{"exchanges": number, "waits_for": what} for number, what in places]
        return wait_apart(dict(enumerate(pairs)), 3)

    assert waits((4, "weights"), (4, "gradients"), (4, "gradients"))
    assert waits((4, "weights"), (5, "weights"), (4, "weights"))
    assert not waits((4, "weights"), (4, "weights"), (4, "weights"))
    assert not waits((4, "weights"), (4, "gradients"), (4, ""))
    assert not waits((4, "weights"), (4, "gradients"))


def test_looking_again_for_the_same_thing_is_no_progress() -> None:
    store = Store()
    dog = Watchdog(store, 0, 2, timeout_seconds=1)

    def progress() -> int:
        dog._beat()
        return json.loads(store.get("rank/0"))["progress"]

    seen = [progress()]
    for what in ("completions", "completions", "gradients"):
        with dog.waiting(what):
            seen.append(progress())
    with dog.exchanging("gradients"):
        seen.append(progress())
    assert seen == [0, 1, 1, 2, 3]


def test_a_failure_is_left_for_the_launcher_unless_another_rank_is_why() -> None:
    store = Store()
    dog = Watchdog(store, 1, 2, timeout_seconds=1)
    shared = VibeLiteError("the leader's")
    shared.printed_by_leader = True
    dog.report_failure(shared)
    assert not store.check(["failure/1"])
    dog.note("p-3, sample 1")
    dog.report_failure(ValueError("bad"))
    left = json.loads(store.get("failure/1"))
    assert left["message"] == "ValueError: bad"
    assert left["place"] == "start, p-3, sample 1"


class TwoNodes(Ranks):
    """The leader of two nodes, of which the other sees what is said of it."""

    def __init__(self, *, sees: bool) -> None:
        super().__init__(num_nodes=2)
        self.sees = sees

    def gather(self, value: Any) -> list[Any]:
        return [value, (self.sees, "second-host")]


def test_a_node_that_does_not_see_the_run_directory_is_refused_by_name(tmp_path: Path) -> None:
    require_shared(tmp_path, TwoNodes(sees=True))
    with pytest.raises(RecipeError, match="rank 1 on second-host does not see.*--run-dir"):
        require_shared(tmp_path, TwoNodes(sees=False))
    assert not list(tmp_path.iterdir())
