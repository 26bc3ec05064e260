"""The loop of SFT and MGPO: which models it keeps, what it saves, and how it stops and goes on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file

from tests.policies import tiny_policy
from tests.training.gradients import train
from vibelite.errors import (
    BudgetReached,
    CheckpointError,
    DiskFull,
    Interrupted,
    RecipeError,
    RunStopped,
)
from vibelite.models.policy import Policy
from vibelite.pipeline import make_context
from vibelite.ranks import states
from vibelite.ranks.states import load_whole
from vibelite.recipe.load import load_recipe
from vibelite.recipe.stage_section import MGPOStage, Optimizer
from vibelite.run_dir import RunDir, StageDir
from vibelite.stages import training_loop
from vibelite.stages.training_loop import TrainingLoop
from vibelite.telemetry.meter import Meter
from vibelite.training.checkpoint import saved_steps
from vibelite.training.optim import PolicyOptimizer

NUM_STEPS = 5
RECIPE = f"""
name: loop
model: {{source: tiny}}
data: {{problems: {{train: {{source: file, path: train.jsonl}}}}}}
checkpoint: {{keep_last: 10}}
stages:
  - kind: mgpo
    start_from: base
    problems: train
    num_steps: {NUM_STEPS}
    checkpoint_every: 2
    sampling: {{max_new_tokens: 8}}
    optimizer: {{lr: 1e-3}}
"""


@dataclass
class Recorder:
    """Has a reason to stop after so many steps; None = never."""

    stop_after: int | None = None
    num_steps: int = 0

    def reason_to_stop(self) -> RunStopped | None:
        return BudgetReached("spent") if self.num_steps == self.stop_after else None

    def record_work(self, what: str) -> None:
        assert what == "checkpoint"


class Training:
    """A loop whose step adds 1 to every weight of one tensor."""

    def __init__(self, directory: Path, *, keep_every: int = 0, stop_after: int | None = None):
        path = directory / "recipe.yaml"
        path.write_text(RECIPE)
        (directory / "train.jsonl").touch()  # never read
        recipe = load_recipe(path)
        stage = recipe.stages[0]
        assert isinstance(stage, MGPOStage)
        self.stage_dir = StageDir(directory)
        context = make_context(
            recipe, path, RunDir(directory / "run"), "mgpo", self.stage_dir, Meter()
        )
        self.recorder = Recorder(stop_after)
        context = replace(context, recorder=cast(Any, self.recorder))
        self.policy = tiny_policy()
        self.taken: list[int] = []
        optimizer = PolicyOptimizer(self.policy, stage.optimizer, num_steps=NUM_STEPS)
        self.loop = TrainingLoop(stage, context, self.policy, optimizer, keep_every=keep_every)

    def step(self, step: int) -> None:
        with torch.no_grad():
            weight_of(self.policy).add_(1)
        self.taken.append(step)
        self.recorder.num_steps = step + 1

    def states(self) -> list[int]:
        return saved_steps(self.stage_dir.resume)


def weight_of(policy: Policy) -> torch.Tensor:
    return policy.model.get_parameter("model.norm.weight")


def num_steps_in(path: Path) -> float:
    """How many steps the model in a directory, or a state, has seen."""
    files = list(path.glob("*.safetensors"))
    weights = load_file(files[0]) if files else load_whole(path)["weights"]
    return (weights["model.norm.weight"] - weight_of(tiny_policy())).mean().item()


@pytest.mark.parametrize(("keep_every", "kept"), [(0, [5]), (2, [2, 4, 5]), (5, [5]), (9, [5])])
def test_models_are_kept_every_so_often_and_at_the_end(tmp_path, keep_every, kept):
    training = Training(tmp_path, keep_every=keep_every)
    assert training.loop.resume() == 0
    training.loop.run(training.step)
    assert training.taken == [0, 1, 2, 3, 4]
    models = training.loop.kept_models()
    assert [path.name for path in models] == [f"step-{step:06d}" for step in kept]
    assert sorted(path.name for path in models[0].parent.iterdir()) == [m.name for m in models]
    assert [num_steps_in(path) for path in models] == pytest.approx(kept)
    assert training.states() == [2, 4, 5]


def test_a_kept_model_that_is_gone_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="step-000005: is missing"):
        Training(tmp_path).loop.kept_models()


def test_a_reason_to_stop_is_asked_after_every_step_and_saves_it_first(tmp_path):
    training = Training(tmp_path, keep_every=3, stop_after=3)
    with pytest.raises(BudgetReached, match="spent"):
        training.loop.run(training.step)
    assert training.taken == [0, 1, 2]
    assert training.states() == [2, 3]
    assert num_steps_in(training.stage_dir.resume / "step-000003") == pytest.approx(3)
    assert num_steps_in(training.stage_dir.checkpoints / "step-000003") == pytest.approx(3)

    resumed = Training(tmp_path, keep_every=3)
    assert resumed.loop.resume() == 3
    resumed.loop.run(resumed.step)
    assert resumed.taken == [3, 4]
    assert num_steps_in(resumed.loop.kept_models()[-1]) == pytest.approx(5)


def test_a_stop_within_a_step_saves_the_steps_before_it(tmp_path):
    training = Training(tmp_path)

    def step(step: int) -> None:
        if step == 3:
            raise Interrupted("stopped by SIGTERM")
        training.step(step)

    with pytest.raises(Interrupted):
        training.loop.run(step)
    assert training.states() == [2, 3]
    assert num_steps_in(training.stage_dir.resume / "step-000003") == pytest.approx(3)


@pytest.mark.parametrize("share", [0.99, 1.01])
def test_a_host_without_room_for_what_waits_to_be_saved_is_refused(tmp_path, monkeypatch, share):
    """As many bytes as a state has after a step, and a model."""
    policy = tiny_policy()
    optimizer = PolicyOptimizer(policy, Optimizer(lr=1e-3), num_steps=1)
    train(policy, optimizer, [0])
    moments = optimizer.state_dict()["state"].values()
    of_state = sum(v.nbytes for values in moments for v in values.values())
    of_model = sum(parameter.nbytes for parameter in policy.model.parameters())
    free = int(share * (of_state + 2 * of_model))
    monkeypatch.setattr(training_loop, "available_bytes", lambda: free)
    if share > 1:
        Training(tmp_path)
    else:
        with pytest.raises(RecipeError, match="stages.mgpo: while it trains, copies of weights"):
            Training(tmp_path)


def test_a_state_that_cannot_be_written_ends_the_stage_after_the_next_step(tmp_path, monkeypatch):
    def refuse(*_: Any) -> None:
        raise DiskFull("no room")

    monkeypatch.setattr(states, "replace_directory", refuse)
    training = Training(tmp_path)
    training.loop.resume()
    wait = training.loop._states.writer.settle

    def step(number: int) -> None:
        training.step(number)
        wait()  # what was begun has failed by now

    with pytest.raises(DiskFull, match="no room"):
        training.loop.run(step)
    assert training.taken == [0, 1, 2], "saved after two steps"
    assert saved_steps(training.stage_dir.resume) == []
