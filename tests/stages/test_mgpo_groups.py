"""Which problems a step of MGPO samples, and that refill and memory train on what they should."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from pydantic import ValidationError

from vibelite.algorithms.pass_rates import no_counts
from vibelite.data.batching import indices_for_step
from vibelite.pipeline import run_pipeline
from vibelite.ranks.ranks import ONE_RANK
from vibelite.recipe.load import load_recipe
from vibelite.recipe.stage_section import Memory, MGPOStage, Optimizer, Refill, Sampling
from vibelite.run_dir import StageDir, derive_seed, read_jsonl
from vibelite.stages import mgpo
from vibelite.stages.mgpo_groups import ProblemPool, sample_step
from vibelite.types import Completion, Group, Problem, Verdict

NUM_PROBLEMS, GROUP_SIZE = 20, 4


@dataclass
class Context:
    """The seeds and ranks of a stage."""

    world: Any = ONE_RANK

    def seed(self, *parts: str | int) -> int:
        return derive_seed(0, "mgpo", *parts)


def pool_of(*, decay: float = 0.0, floor: float = 0.1, max_rounds: int = 0) -> ProblemPool:
    stage = MGPOStage(
        kind="mgpo",
        num_steps=1,
        problems_per_step=6,
        group_size=GROUP_SIZE,
        memory=Memory(decay=decay, floor=floor),
        refill=Refill(max_rounds=max_rounds),
        sampling=Sampling(max_new_tokens=8),
        optimizer=Optimizer(lr=1e-3),
    )
    problems = [Problem(str(place), "all", (), "", "exact") for place in range(NUM_PROBLEMS)]
    counts = no_counts(NUM_PROBLEMS) if decay else None
    return ProblemPool(problems, counts, stage, cast(Any, Context()))


def group_of(problem: Problem, rewards: list[float]) -> Group:
    completion = Completion((1, 2), (0.0, 0.0), "stop", "")
    verdicts = tuple(Verdict(reward, reward == 1) for reward in rewards)
    return Group(problem, (1,), (completion,) * len(rewards), verdicts)


@dataclass
class Sampler:
    """Mixed groups of the problems whose place is a multiple of `every`, of others wrong ones."""

    every: int
    rounds: list[list[int]] = field(default_factory=list)

    def __call__(self, problems: Any, number: int) -> list[Group]:
        assert number == len(self.rounds)
        places = [int(problem.id) for problem in problems]
        self.rounds.append(places)
        rewards = ([0.0] * 3 + [float(place % self.every == 0)] for place in places)
        return [group_of(problem, row) for problem, row in zip(problems, rewards, strict=True)]


def test_without_memory_and_refill_problems_come_in_their_order() -> None:
    sampler = Sampler(every=3)
    places, groups, num_rounds = sample_step(pool_of(), 2, sampler, lambda group: group.has_signal)
    assert places == indices_for_step(NUM_PROBLEMS, 6, 2, seed=Context().seed("order"))
    assert sampler.rounds == [places] and num_rounds == 0
    assert [group.problem.id for group in groups] == [str(place) for place in places]


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_refill_asks_for_as_many_others_as_are_missing_until_none_is(decay: float) -> None:
    sampler = Sampler(every=2)
    pool = pool_of(decay=decay, max_rounds=10)
    places, groups, num_rounds = sample_step(pool, 0, sampler, lambda group: group.has_signal)
    assert len(set(places)) == len(places) == sum(map(len, sampler.rounds))
    assert [int(group.problem.id) for group in groups] == places
    assert sum(group.has_signal for group in groups) == 6
    kept = 0
    for asked in sampler.rounds:
        assert len(asked) == 6 - kept
        kept += sum(place % 2 == 0 for place in asked)
    assert num_rounds == len(sampler.rounds) - 1 > 0


def test_refill_ends_after_its_rounds_or_with_the_problems() -> None:
    never = Sampler(every=10**6 + 1)
    pool = pool_of(max_rounds=2)
    _, groups, num_rounds = sample_step(pool, 1, never, lambda _: False)
    assert (len(groups), num_rounds) == (18, 2)
    _, groups, num_rounds = sample_step(pool_of(max_rounds=9), 1, Sampler(every=2), lambda _: False)
    assert (len(groups), num_rounds) == (NUM_PROBLEMS, 3)


def test_a_step_draws_the_same_whenever_it_is_taken_and_others_draw_otherwise() -> None:
    draws = [pool_of(decay=0.9).first(step) for step in (0, 1, 0)]
    assert draws[0] == draws[2] != draws[1]


def test_problems_with_both_outcomes_are_drawn_more_often_and_none_is_forgotten() -> None:
    pool = pool_of(decay=1.0, floor=0.05)
    assert pool.counts is not None
    pool.counts[:10] = torch.tensor([0.0, 1e6], dtype=torch.float64)
    pool.counts[10:] = torch.tensor([40.0, 40.0], dtype=torch.float64)
    drawn = torch.bincount(torch.tensor([pool.first(step) for step in range(300)]).flatten())
    assert len(drawn) == NUM_PROBLEMS and drawn.min() > 0
    assert drawn[10:].sum() > 0.85 * drawn.sum()


def test_a_set_smaller_than_a_step_comes_again() -> None:
    pool = pool_of(decay=0.9)
    few = ProblemPool(pool.problems[:4], no_counts(4), pool.stage, pool.context)
    places = few.first(0)
    assert len(places) == 6 and set(places) == {0, 1, 2, 3}


def test_all_groups_are_remembered_by_their_mean_reward() -> None:
    pool = pool_of(decay=0.5)
    assert pool.counts is not None
    pool.counts[3] = torch.tensor([2.0, 4.0], dtype=torch.float64)
    groups = [group_of(pool.problems[7], [0.5, 0, 0.25, 1]), group_of(pool.problems[1], [0] * 4)]
    metrics = pool.remember([7, 1], groups)
    assert pool.counts[[7, 1, 3]].tolist() == [[1.75, 2.25], [0, 4], [1, 2]]
    # Of four at even odds of Beta(1/2, 1/2): 1 - 2 (1 3 5 7) / (2 4 6 8) = 29 / 64.
    assert metrics == {"memory/expected_mixed": pytest.approx(29 / 64)}


@pytest.mark.parametrize(
    "refused",
    [
        lambda: Memory(decay=1.01),
        lambda: Memory(floor=0.0),
        lambda: Memory(floor=1.01),
        lambda: Refill(max_rounds=-1),
    ],
)
def test_settings_out_of_bounds_are_refused(refused: Any) -> None:
    with pytest.raises(ValidationError, match="should be"):
        refused()


RECIPE = """
name: refill
num_threads: 1
model: {source: tiny, hidden_size: 16, num_layers: 1, num_heads: 2, mlp_size: 16, vocab_size: 300}
data:
  problems:
    train:
      {source: file, path: train.jsonl, verifier: custom,
       reward: {file: reward.py, function: score}}
stages:
  - kind: mgpo
    start_from: base
    problems: train
    num_steps: 4
    problems_per_step: 4
    group_size: 2
    memory: {decay: 0.9}
    refill: {max_rounds: 2}
    checkpoint_every: 1
    optimizer: {lr: 1e-2}
    sampling: {max_new_tokens: 120}
"""


def run(directory: Path, name: str = "run") -> StageDir:
    rows = (f'{{"id": "{i}", "prompt": "{i} + 1", "answer": "2"}}\n' for i in range(30))
    (directory / "train.jsonl").write_text("".join(rows))
    (directory / "reward.py").write_text(
        "def score(problem, text):\n    return 1.0  # unless it is cut off\n"
    )
    path = directory / "recipe.yaml"
    path.write_text(RECIPE)
    run_pipeline(load_recipe(path), recipe_path=path, run_dir=directory / name)
    return StageDir(directory / name / "stages" / "00-mgpo")


def test_the_loss_is_that_of_the_groups_with_a_signal_and_all_are_paid_and_shown(
    tmp_path, monkeypatch, one_thread
):
    trained, make_batches = [], mgpo.training_batches

    def watched(trainer, groups, advantages):
        batches = make_batches(trainer, groups, advantages)
        trained.append((groups, sum(batch.token_weights.sum().item() for batch in batches)))
        return batches

    monkeypatch.setattr(mgpo, "training_batches", watched)
    stage_dir = run(tmp_path)
    samples, steps = (
        list(read_jsonl(stage_dir.samples_path)),
        list(read_jsonl(stage_dir.steps_path)),
    )
    assert sum(row["metrics"]["refill/rounds"] for row in steps) > 0
    for row, (groups, weight) in zip(steps, trained, strict=True):
        metrics = row["metrics"]
        own = [sample for sample in samples if sample["step"] == row["step"]]
        mixed = metrics["groups/mixed"] * metrics["refill/sampled"]
        assert len(groups) == metrics["refill/kept"] == pytest.approx(mixed)
        assert 0 < len(groups) <= 4
        assert all(group.has_signal for group in groups)
        assert weight == pytest.approx(1), "no share of the average is lost to the others"
        assert len(own) == 2 * metrics["refill/sampled"] == row["counts"]["num_completions"]
        assert row["tokens"]["generated"] == sum(sample["num_tokens"] for sample in own)
        dropped = sum(sample["num_tokens"] for sample in own if not sample["advantage"])
        assert row["counts"]["zero_signal_tokens"] == dropped


def what_is_so(row: dict[str, Any]) -> dict[str, Any]:
    """A row of samples, or a step's metrics without its speed."""
    metrics = row.get("metrics", row)
    return {key: value for key, value in metrics.items() if key != "rollout/tokens_per_second"}


def test_what_is_remembered_is_resumed(tmp_path, monkeypatch, one_thread):
    whole, step_of_mgpo = run(tmp_path, "whole"), mgpo.mgpo_step

    def fail_at_third(trainer, problems, step):
        if step == 2:
            raise KeyboardInterrupt
        step_of_mgpo(trainer, problems, step)

    monkeypatch.setattr(mgpo, "mgpo_step", fail_at_third)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "cut")
    monkeypatch.setattr(mgpo, "mgpo_step", step_of_mgpo)
    cut = run(tmp_path, "cut")
    for name in ("steps_path", "samples_path"):
        ours, theirs = (list(read_jsonl(getattr(stage, name))) for stage in (cut, whole))
        assert [what_is_so(row) for row in ours] == [what_is_so(row) for row in theirs]
    ours, theirs = (stage.checkpoints / "step-000004/model.safetensors" for stage in (cut, whole))
    assert ours.read_bytes() == theirs.read_bytes()
