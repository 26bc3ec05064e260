"""A resumed run goes on bit for bit; what a killed process left behind is never used."""

import pytest
import torch

from tests.policies import tiny_policy
from tests.training.test_optim import set_gradients
from vibelite.errors import CheckpointError
from vibelite.recipe.stage_section import Optimizer
from vibelite.training.checkpoint import (
    OPTIMIZER_NAME,
    load_training_state,
    save_training_state,
    saved_steps,
)
from vibelite.training.optim import PolicyOptimizer

CONFIG = Optimizer(kind="muon", lr=1e-3)


def train(policy, optimizer, steps):
    for step in steps:
        set_gradients(policy, step)
        optimizer.step(step)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_resuming_equals_not_stopping_bit_for_bit(tmp_path, kind):
    config = Optimizer(kind=kind, lr=1e-3)
    whole = tiny_policy()
    train(whole, PolicyOptimizer(whole, config, num_steps=10), range(10))

    first = tiny_policy()
    optimizer = PolicyOptimizer(first, config, num_steps=10)
    train(first, optimizer, range(4))
    save_training_state(tmp_path, 4, first, optimizer)

    second = tiny_policy(seed=99)
    optimizer = PolicyOptimizer(second, config, num_steps=10)
    start = load_training_state(tmp_path, second, optimizer)
    assert start == 4
    train(second, optimizer, range(start, 10))
    for mine, other in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_only_the_newest_state_is_kept(tmp_path):
    policy = tiny_policy()
    optimizer = PolicyOptimizer(policy, CONFIG, num_steps=10)
    for step in (2, 4, 6):
        train(policy, optimizer, [step])
        save_training_state(tmp_path, step, policy, optimizer)
    assert saved_steps(tmp_path) == [6]


def test_a_half_written_state_is_not_seen_and_does_not_disturb(tmp_path):
    policy = tiny_policy()
    optimizer = PolicyOptimizer(policy, CONFIG, num_steps=10)
    train(policy, optimizer, [0])
    save_training_state(tmp_path, 1, policy, optimizer)
    half = tmp_path / ".step-000002.tmp"
    half.mkdir()
    (half / OPTIMIZER_NAME).write_bytes(b"torn")
    assert load_training_state(tmp_path, policy, optimizer) == 1
    save_training_state(tmp_path, 2, policy, optimizer)
    assert load_training_state(tmp_path, policy, optimizer) == 2


def test_no_state_means_step_zero(tmp_path):
    policy = tiny_policy()
    optimizer = PolicyOptimizer(policy, CONFIG, num_steps=10)
    assert load_training_state(tmp_path, policy, optimizer) == 0


def test_a_damaged_state_and_another_models_state_are_named(tmp_path):
    policy = tiny_policy()
    optimizer = PolicyOptimizer(policy, CONFIG, num_steps=10)
    train(policy, optimizer, [0])
    save_training_state(tmp_path, 1, policy, optimizer)
    other = tiny_policy(num_layers=1)
    with pytest.raises(CheckpointError, match="another model"):
        load_training_state(tmp_path, other, PolicyOptimizer(other, CONFIG, num_steps=1))
    (tmp_path / "step-000001" / "weights.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="step-000001: damaged"):
        load_training_state(tmp_path, policy, optimizer)
