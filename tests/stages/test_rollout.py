"""Groups in order with their verdicts, and the pre-filter of problems that teach nothing."""

from dataclasses import replace
from typing import Any, cast

import pytest

from tests.policies import tiny_policy
from vibelite.errors import BudgetReached, DataError
from vibelite.recipe.data_section import Data
from vibelite.recipe.run_section import Budget, Cost, Verification
from vibelite.recipe.stage_section import MGPOStage, Optimizer, Sampling
from vibelite.rollout.engine import SamplingSettings
from vibelite.run_dir import StageDir, read_json
from vibelite.stages.context import StageContext
from vibelite.stages.mgpo_start import select_learnable
from vibelite.stages.rollout import sample_groups, sample_rows
from vibelite.telemetry.meter import Meter
from vibelite.telemetry.recorder import Recorder
from vibelite.telemetry.spending import Spending
from vibelite.telemetry.stop import StopRules
from vibelite.types import Completion, Problem

# How many of four completions are right, by problem.
NUM_CORRECT = {"a": 0, "b": 1, "c": 4, "d": 3}
PROBLEMS = [
    Problem(name, "all", ({"role": "user", "content": name},), name, "exact")
    for name in NUM_CORRECT
]


class ScriptedEngine:
    """Answers every problem as NUM_CORRECT says, in the order of the prompts; counts its calls."""

    def __init__(self) -> None:
        self.num_calls = 0

    def stream(self, prompts, settings: SamplingSettings, *, seed: int, skip=()):
        self.num_calls += 1
        for prompt, name in enumerate(list(NUM_CORRECT)[: len(prompts)]):
            for sample in reversed(range(settings.num_completions)):  # they end in any order
                yield prompt, sample, answer(name, sample < NUM_CORRECT[name])


def answer(name: str, is_right: bool) -> Completion:
    text = f"\\boxed{{{name if is_right else 'no'}}}"
    return Completion((7, 8), (-0.5, -0.5), "stop", text)


def make_context(tmp_path, budget: Budget | None = None) -> StageContext:
    meter = Meter()
    stage_dir = StageDir(tmp_path)
    stop = StopRules(budget or Budget(), Spending(Cost(), tmp_path / "ledger"))
    recorder = Recorder("mgpo", stage_dir, meter, stop)

    class Recipe:
        data, seed, verification = Data(), 0, Verification()

    recipe, run = cast(Any, Recipe()), cast(Any, None)
    return StageContext(recipe, tmp_path, run, "mgpo", stage_dir, meter, recorder)


def make_stage(**settings) -> MGPOStage:
    return MGPOStage(
        kind="mgpo",
        num_steps=1,
        sampling=Sampling(max_new_tokens=8),
        optimizer=Optimizer(lr=1e-3),
        **settings,
    )


def select(tmp_path, engine, problems=PROBLEMS, **settings):
    stage, context = make_stage(**settings), make_context(tmp_path)
    kept = select_learnable(problems, cast(Any, engine), tiny_policy(), stage, context)
    return [problem.id for problem in kept]


def test_problems_with_pass_rate_0_or_1_are_dropped(tmp_path):
    assert select(tmp_path, ScriptedEngine(), prefilter_samples=4) == ["b", "d"]
    rates = read_json(tmp_path / "prefilter.json")["pass_rates"]
    assert rates == {"a": 0.0, "b": 0.25, "c": 1.0, "d": 0.75}


def test_a_resumed_stage_does_not_sample_again_unless_the_problems_changed(tmp_path):
    engine = ScriptedEngine()
    select(tmp_path, engine, prefilter_samples=4)
    assert select(tmp_path, engine, prefilter_samples=4) == ["b", "d"]
    assert engine.num_calls == 1
    select(tmp_path, engine, PROBLEMS[:3], prefilter_samples=4)
    assert engine.num_calls == 2


class RightInTurns(ScriptedEngine):
    """Every second completion is right."""

    def stream(self, prompts, settings: SamplingSettings, *, seed: int, skip=()):
        for prompt in range(len(prompts)):
            for sample in range(settings.num_completions):
                yield prompt, sample, answer("a", sample % 2 == 0)


def test_a_limited_filter_tries_a_sample_by_the_seed_and_never_the_top(tmp_path):
    problems = [replace(PROBLEMS[0], id=f"{number:02d}") for number in range(40)]
    tried = []
    for name in ("one", "two"):
        directory = tmp_path / name
        directory.mkdir()
        limits = {"prefilter_samples": 2, "prefilter_problems": 4}
        tried.append(select(directory, RightInTurns(), problems, **limits))
    assert tried[0] == tried[1] and len(tried[0]) == 4
    assert set(tried[0]) != {"00", "01", "02", "03"}


def test_no_filter_keeps_everything_and_samples_nothing(tmp_path):
    engine = ScriptedEngine()
    assert select(tmp_path, engine) == ["a", "b", "c", "d"]
    assert engine.num_calls == 0


def test_nothing_learnable_is_an_error_with_advice(tmp_path):
    with pytest.raises(DataError, match="none of 1 problems has a pass rate between 0 and 1"):
        select(tmp_path, ScriptedEngine(), PROBLEMS[:1], prefilter_samples=4)


def test_groups_keep_the_order_and_count_tokens_and_time(tmp_path):
    context = make_context(tmp_path)
    settings = SamplingSettings(4, 8)
    groups = sample_groups(
        cast(Any, ScriptedEngine()), tiny_policy(), PROBLEMS, settings, context=context, seed=0
    )
    assert [group.problem.id for group in groups] == ["a", "b", "c", "d"]
    assert [sum(group.rewards) for group in groups] == [0, 1, 4, 3]
    lap = context.meter.lap()
    assert lap.tokens["generated"] == 4 * 4 * 2
    assert lap.tokens["prompt"] == sum(len(group.prompt_ids) for group in groups)
    assert {"rollout", "verify"} <= set(lap.nanoseconds)
    rows = sample_rows(groups)
    assert [row["problem_id"] for row in rows[::4]] == ["a", "b", "c", "d"]
    assert sum(row["correct"] for row in rows) == 8


def test_time_that_is_up_ends_the_sampling_of_a_step(tmp_path):
    """After the first completion, not after the last."""
    engine, num_sampled = ScriptedEngine(), 0

    def stream(prompts, settings, *, seed, skip):
        nonlocal num_sampled
        for completion in ScriptedEngine.stream(engine, prompts, settings, seed=seed):
            num_sampled += 1
            yield completion

    cast(Any, engine).stream = stream
    context = make_context(tmp_path, Budget(hours=1e-9))
    with pytest.raises(BudgetReached):
        sample_groups(
            cast(Any, engine), tiny_policy(), PROBLEMS, SamplingSettings(4, 8),
            context=context, seed=0,
        )  # fmt: skip
    assert num_sampled == 1


def test_a_thinking_that_the_prompt_opens_is_judged_and_kept_with_its_beginning(
    tmp_path, monkeypatch
):
    """An answer that never leaves the thinking is none, whoever opened it."""
    policy, settings = tiny_policy(), SamplingSettings(2, 8)
    template = str(policy.tokenizer.chat_template).replace(
        "<|assistant|>' }}", "<|assistant|><think>' }}"
    )
    monkeypatch.setattr(policy.tokenizer, "chat_template", template)
    texts = ["It is a.</think>\\boxed{a}", "Perhaps \\boxed{a}"]

    class Engine:
        def stream(self, prompts, settings, *, seed, skip=()):
            for sample, text in enumerate(texts):
                yield 0, sample, Completion((7, 8), (-0.5, -0.5), "stop", text)

    context = make_context(tmp_path)
    (group,) = sample_groups(
        cast(Any, Engine()), policy, PROBLEMS[:1], settings, context=context, seed=0
    )
    assert group.rewards == [1, 0]
    assert [row["completion"] for row in sample_rows([group])] == [f"<think>{t}" for t in texts]
    assert [c.token_ids for c in group.completions] == [(7, 8)] * 2
