"""Shares of tensors, a world of one, and work cut for several ranks; processes are in
tests/distributed.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.policies import random_sequences, tiny_policy
from vibelite.data.batching import share_by_tokens
from vibelite.errors import RecipeError, VibeLiteError
from vibelite.models.policy import TrainedAdapter
from vibelite.recipe.model_section import Training
from vibelite.recipe.stage_section import Optimizer
from vibelite.training import watchdog
from vibelite.training.full_sharding import fully_sharded
from vibelite.training.optim import PolicyOptimizer
from vibelite.training.parallel import World, require_same_history
from vibelite.training.shares import pack, rows_of, share_length, share_size
from vibelite.training.watchdog import LOST_BEATS, Watchdog, wait_apart


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4, 8])
def test_shares_put_together_are_the_tensors(num_ranks: int) -> None:
    tensors = [torch.arange(7.0), torch.full((1,), 5.0), torch.arange(24.0).view(2, 3, 4)]
    packed = pack(tensors, num_ranks)
    sizes = [share_size(tensor.numel(), num_ranks) for tensor in tensors]
    for tensor, columns in zip(tensors, packed.split(sizes, dim=1), strict=True):
        whole = columns.reshape(-1)
        assert torch.equal(whole[: tensor.numel()].view_as(tensor), tensor)
        assert not whole[tensor.numel() :].any()


def test_a_share_is_a_row_of_the_packed_tensor() -> None:
    tensor = torch.arange(10.0)
    assert World(rank=3, num_ranks=4).share_of(tensor).tolist() == [9.0, 0.0, 0.0]
    assert World(rank=1, num_ranks=4).share_of(tensor).tolist() == [3.0, 4.0, 5.0]


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4, 8])
def test_rows_and_lengths_of_all_ranks_are_the_tensor(num_ranks: int) -> None:
    tensor = torch.arange(10.0).view(5, 2)
    rows = [rows_of(tensor, num_ranks, rank) for rank in range(num_ranks)]
    assert torch.equal(torch.cat(rows), tensor)
    lengths = [share_length(10, num_ranks, rank) for rank in range(num_ranks)]
    assert sum(lengths) == 10
    assert max(lengths) == share_size(10, num_ranks)


def test_an_adapters_frozen_weights_are_not_cut() -> None:
    policy = tiny_policy()
    adapted = replace(policy, adapter=TrainedAdapter(Path("start"), four_bit=False))
    with pytest.raises(RecipeError, match="use parallel.sharding: optimizer"):
        fully_sharded(adapted, Training(), World(num_ranks=2))


def test_every_sequence_is_trained_on_by_one_rank_and_tokens_are_even() -> None:
    sequences = random_sequences(40, longest=50)
    shares = share_by_tokens(sequences, 4)
    assert sorted(id(s) for share in shares for s in share) == sorted(map(id, sequences))
    tokens = [sum(len(s.token_ids) for s in share) for share in shares]
    assert max(tokens) - min(tokens) <= 50
    assert share_by_tokens(sequences, 1) == [sequences]


def test_a_world_of_one_asks_nobody() -> None:
    world = World()
    assert world.from_leader(lambda: 3) == 3
    assert world.gather("own") == ["own"]
    world.barrier("nobody")
    world.delegate("nothing")


def test_within_from_leader_the_leader_is_by_itself() -> None:
    world = World(rank=0, num_ranks=2)
    said: list[Any] = []
    world._send = said.append  # pyright: ignore[reportAttributeAccessIssue]

    def produce() -> list[int]:
        world.delegate("work")
        world.barrier("nobody waits here")
        return world.gather(1) + [world.from_leader(lambda: 2)]

    assert world.from_leader(produce) == [1, 2]
    assert said == [("task", "work"), ("result", [1, 2])]


def test_the_leaders_error_is_raised_on_every_rank() -> None:
    error = RecipeError("no room")
    messages = iter([("task", "first"), ("error", error)])
    world = World(rank=1, num_ranks=2)
    world._send = lambda _: next(messages)  # pyright: ignore[reportAttributeAccessIssue]
    done: list[Any] = []
    with pytest.raises(RecipeError, match="no room") as raised:
        world.from_leader(lambda: pytest.fail("the leader's work"), meanwhile=done.append)
    assert done == ["first"]
    assert getattr(raised.value, "is_leaders", False)


@pytest.mark.parametrize("kind", ["muon", "adamw_8bit", "adamw_cpu"])
def test_other_optimizers_are_refused_on_several_ranks(kind: Any) -> None:
    with pytest.raises(RecipeError, match=f"optimizer.kind {kind}.*num_gpus: 1"):
        optimizer = Optimizer(lr=1e-3, kind=kind)
        PolicyOptimizer(tiny_policy(), optimizer, num_steps=1, world=World(num_ranks=2))


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


def state(beats: int, place: str, waits_for: str = "", exchanges: int = 0) -> str:
    said = {"beats": beats, "progress": 0, "place": place, "waits_for": waits_for}
    return json.dumps(said | {"exchanges": exchanges})


def watch_until_end(monkeypatch: pytest.MonkeyPatch, store: Store, timeout: float) -> list[int]:
    """The exit codes with which rank 0 of two ended itself."""
    monkeypatch.setattr(watchdog, "SECONDS_PER_BEAT", 0.01)
    codes: list[int] = []
    dog = Watchdog(store, 0, 2, timeout_seconds=timeout, end=codes.append)
    dog.describe = lambda: "stage 'mgpo', step 3, wait"
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


def test_exchanges_in_another_order_are_another_history() -> None:
    def history(*names: str) -> int:
        dog = Watchdog(Store(), 0, 2, timeout_seconds=1)
        for name in names:
            with dog.exchanging(name):
                pass
        return dog.history

    assert history("a", "b") == history("a", "b") != history("b", "a")
    require_same_history([history("a", "b"), history("a", "b")])
    with pytest.raises(VibeLiteError, match="rank 0 and rank 2 did not exchange the same"):
        require_same_history([history("a", "b"), history("a", "b"), history("b", "a")])


def test_a_failure_is_left_for_the_launcher_unless_another_rank_is_why() -> None:
    store = Store()
    dog = Watchdog(store, 1, 2, timeout_seconds=1)
    shared = VibeLiteError("the leader's")
    shared.is_leaders = True  # pyright: ignore[reportAttributeAccessIssue]
    dog.report_failure(shared)
    assert not store.check(["failure/1"])
    dog.note("p-3, sample 1")
    dog.report_failure(ValueError("bad"))
    left = json.loads(store.get("failure/1"))
    assert left["message"] == "ValueError: bad"
    assert left["place"] == "start, p-3, sample 1"
