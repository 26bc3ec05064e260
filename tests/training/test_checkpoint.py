"""A resumed run goes on bit for bit; what a killed process left behind is never used."""

import pytest
import torch

from tests.policies import tiny_policy
from tests.training.gradients import set_gradients, weights_of
from vibelite.errors import CheckpointError
from vibelite.recipe.model_section import Training
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
        optimizer.finish()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["adamw", "muon", "adamw_cpu", "adamw_8bit"])
def test_resuming_equals_not_stopping_bit_for_bit(tmp_path, kind, dtype):
    if kind == "adamw_8bit":
        pytest.importorskip("bitsandbytes")
    config, training = Optimizer(kind=kind, lr=1e-3), Training(dtype=dtype)

    def start(seed=0):
        policy = tiny_policy(seed)
        policy.model.to(getattr(torch, dtype))
        return policy, PolicyOptimizer(policy, config, num_steps=10, training=training)

    whole, optimizer = start()
    train(whole, optimizer, range(10))
    at_the_end = optimizer.state_dict()

    first, optimizer = start()
    train(first, optimizer, range(4))
    save_training_state(tmp_path, 4, first, optimizer)

    second, optimizer = start(seed=99)
    assert load_training_state(tmp_path, second, optimizer) == 4
    assert all(map(torch.equal, weights_of(first), weights_of(second)))
    train(second, optimizer, range(4, 10))
    assert all(map(torch.equal, weights_of(whole), weights_of(second)))
    # Weights of 16 bits could be the same over masters that are not.
    masters = optimizer.state_dict()["masters"]
    assert len(masters) == (0 if dtype == "float32" else len(weights_of(whole)))
    assert all(map(torch.equal, at_the_end["masters"], masters))
    assert optimizer.state_dict().get("loss_scale") == at_the_end.get("loss_scale")


def test_the_skipped_steps_of_a_scaled_loss_are_part_of_the_state(tmp_path):
    policy = tiny_policy()
    policy.model.half()
    training = Training(dtype="float16")
    optimizer = PolicyOptimizer(policy, Optimizer(lr=1e-3), num_steps=10, training=training)
    set_gradients(policy, 0, scale=torch.inf)
    optimizer.step(0)
    save_training_state(tmp_path, 1, policy, optimizer)
    resumed = PolicyOptimizer(policy, Optimizer(lr=1e-3), num_steps=10, training=training)
    load_training_state(tmp_path, policy, resumed)
    assert resumed.loss_scale == optimizer.loss_scale == 2**15
    set_gradients(policy, 1)
    assert resumed.step(1)["optimizer/skipped_steps"] == 1


def test_the_state_of_another_kind_is_refused(tmp_path):
    policy = tiny_policy()
    optimizer = PolicyOptimizer(policy, CONFIG, num_steps=10)
    save_training_state(tmp_path, 1, policy, optimizer)
    other = PolicyOptimizer(policy, Optimizer(lr=1e-3), num_steps=10)
    with pytest.raises(CheckpointError, match="kind muon, not adamw"):
        load_training_state(tmp_path, policy, other)


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
