"""The MGPO stage: which completions are trained on, and what a run of the stage leaves. Its step is
held against numbers in test_mgpo_step.py.
"""

from typing import Any, cast

import pytest
import torch

from tests.policies import tiny_policy
from vibelite.algorithms.advantages import mgpo_advantages
from vibelite.pipeline import run_pipeline
from vibelite.recipe.load import load_recipe
from vibelite.recipe.stage_section import MGPOStage, Optimizer, Sampling
from vibelite.rollout.transformers_engine import TransformersEngine
from vibelite.run_dir import StageDir
from vibelite.stages import mgpo
from vibelite.stages.mgpo import Trainer, training_batches
from vibelite.training.optim import PolicyOptimizer
from vibelite.types import Completion, Group, Problem, Verdict

REWARDS = [[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]]


def make_groups(seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high):
        return int(torch.randint(low, high, (1,), generator=generator))

    groups = []
    for index, rewards in enumerate(REWARDS):
        completions = []
        for _ in rewards:
            tokens = tuple(draw(6, 280) for _ in range(draw(1, 12)))
            logprobs = tuple(-draw(1, 500) / 100 for _ in tokens)
            completions.append(Completion(tokens, logprobs, "stop", ""))
        problem = Problem(str(index), "algebra" if index < 2 else "number", (), "", "exact")
        prompt = tuple(draw(6, 280) for _ in range(draw(1, 9)))
        verdicts = tuple(Verdict(float(reward), bool(reward)) for reward in rewards)
        groups.append(Group(problem, prompt, tuple(completions), verdicts))
    return groups


def make_trainer(policy):
    stage = MGPOStage(
        kind="mgpo",
        num_steps=1,
        sampling=Sampling(max_new_tokens=12, temperature=0.9),
        optimizer=Optimizer(lr=1e-3),
    )
    nothing = cast(Any, None)
    optimizer = PolicyOptimizer(policy, stage.optimizer, num_steps=1)
    return Trainer(stage, nothing, policy, None, nothing, optimizer)


def advantages_of(groups):
    return [mgpo_advantages(group.rewards, group.pass_rate, 1.0)[0] for group in groups]


def test_groups_without_signal_are_left_out_but_counted_in_the_average():
    policy = tiny_policy()
    trainer = make_trainer(policy)
    groups = make_groups()
    (batch,) = training_batches(trainer, groups, advantages_of(groups))
    assert batch.num_sequences == 8  # the two mixed groups of four
    first = groups[0].completions[0]
    first_weights = batch.token_weights[batch.token_weights > 0]
    assert 1 / (16 * len(first.token_ids)) == pytest.approx(
        min(first_weights.tolist(), key=lambda w: abs(w - 1 / (16 * len(first.token_ids))))
    )
    assert batch.token_weights.sum().item() == pytest.approx(8 / 16)


def test_nothing_to_learn_means_no_batch():
    groups = [group for group in make_groups() if group.pass_rate in (0, 1)]
    trainer = make_trainer(tiny_policy())
    assert training_batches(trainer, groups, advantages_of(groups)) == []


ONE_STAGE = """
name: one-stage
model: {source: tiny, hidden_size: 16, num_layers: 1, num_heads: 2, mlp_size: 16, vocab_size: 300}
data: {problems: {train: {source: file, path: train.jsonl}}}
stages:
  - kind: mgpo
    start_from: base
    problems: train
    num_steps: 1
    optimizer: {lr: 1e-3}
    sampling: {max_new_tokens: 4}
"""


def run_one_stage(directory, *overrides):
    (directory / "train.jsonl").write_text('{"prompt": "1 + 1", "answer": "2"}\n')
    path = directory / "recipe.yaml"
    path.write_text(ONE_STAGE)
    run_pipeline(load_recipe(path, overrides), recipe_path=path, run_dir=directory / "run")
    return StageDir(directory / "run" / "stages" / "00-mgpo")


def test_every_kept_model_has_a_name_to_be_evaluated_under(tmp_path, one_thread):
    stage_dir = run_one_stage(tmp_path, "stages.mgpo.num_steps=3", "stages.mgpo.keep_every=2")
    models = {name: path.name for name, path in stage_dir.models().items()}
    assert models == {"mgpo-step-000002": "step-000002", "mgpo": "step-000003"}


@pytest.mark.parametrize("failing", ["select_learnable", "mgpo_step"])
def test_a_stage_that_fails_closes_its_engine(tmp_path, monkeypatch, one_thread, failing):
    closed = []

    def fail(*_):
        assert not closed
        raise RuntimeError("out of memory")

    monkeypatch.setattr(mgpo, failing, fail)
    monkeypatch.setattr(TransformersEngine, "close", lambda engine: closed.append(engine))
    with pytest.raises(RuntimeError, match="out of memory"):
        run_one_stage(tmp_path)
    assert len(closed) == 1
