"""The copies' bookkeeping, with a GPU played by the CPU: pieces, buffers in use, order of sums.

Real streams are in test_optim_gpu.py.
"""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.policies import tiny_policy
from tests.saving import save_training_state
from tests.training.gradients import policy_in, set_gradients, train, weights_of
from vibelite.recipe.model_section import Training
from vibelite.recipe.stage_section import Optimizer
from vibelite.training import host_adamw, pinned_copies
from vibelite.training.checkpoint import load_training_state
from vibelite.training.optim import PolicyOptimizer
from vibelite.training.pinned_copies import Buffer, Transfer


class Nothing:
    """A stream or event of a device that has always finished."""

    def __init__(self, *_: Any) -> None: ...

    def wait_stream(self, _: Any) -> None: ...

    def record(self) -> None: ...

    def synchronize(self) -> None: ...


@pytest.fixture
def copies(monkeypatch) -> Transfer:
    """A transfer with buffers of 64 bytes."""
    monkeypatch.setattr(pinned_copies, "BUFFER_BYTES", 64)
    monkeypatch.setattr(torch.cuda, "Stream", Nothing)
    monkeypatch.setattr(torch.cuda, "current_stream", Nothing)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)

    def buffer() -> Buffer:
        return Buffer(torch.empty(64, dtype=torch.uint8), Nothing())  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(pinned_copies, "_buffer", buffer)
    return Transfer(torch.device("cpu"))


@pytest.mark.parametrize("num_entries", [1, 16, 17, 333])
def test_pieces_cover_a_tensor_and_sums_keep_their_order(copies, num_entries):
    values = [torch.randn(num_entries) for _ in range(5)]
    total = torch.full((num_entries,), torch.nan)
    for index, value in enumerate(values):
        copies.add_to_host(value, total, overwrite=index == 0)
    copies.wait_for_host()
    expected = values[0].clone()
    for value in values[1:]:
        expected += value
    assert torch.equal(total, expected)


class LateWorker:
    """Work that is done only when somebody waits for it."""

    def submit(self, function: Any, *arguments: Any) -> Any:
        return SimpleNamespace(result=lambda: function(*arguments))


def test_a_buffer_is_not_written_before_the_host_has_read_it(copies, monkeypatch):
    monkeypatch.setattr(copies, "worker", LateWorker())
    source, total = torch.arange(16.0 * 20), torch.empty(16 * 20)
    copies.add_to_host(source, total, overwrite=True)
    copies.wait_for_host()
    assert torch.equal(total, source)


def test_16_bit_gradients_add_to_float32_sums(copies):
    first, second = torch.randn(100).bfloat16(), torch.randn(100).bfloat16()
    total = torch.empty(100)
    copies.add_to_host(first, total, overwrite=True)
    copies.add_to_host(second, total, overwrite=False)
    copies.wait_for_host()
    assert torch.equal(total, first.float() + second.float())


def test_weights_are_rounded_on_their_way_to_the_device(copies):
    master, weights = torch.randn(7, 30), torch.nn.Parameter(torch.zeros(7, 30).bfloat16())
    copies.copy_to_device(master, weights)
    assert torch.equal(weights, master.bfloat16())


def test_an_error_of_the_hosts_work_is_raised(copies):
    copies.add_to_host(torch.zeros(8), torch.zeros(4), overwrite=True)
    with pytest.raises(RuntimeError, match="size"):
        copies.wait_for_host()


def own_master(parameter: torch.Tensor, _: torch.device) -> torch.Tensor:
    """A master that shares no memory with its weights, as on a GPU's host."""
    return parameter.detach().float().clone()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_resumed_master_starts_from_the_loaded_weights(copies, monkeypatch, tmp_path, dtype):
    monkeypatch.setattr(host_adamw, "float32_master", own_master)
    training, config = Training(dtype=dtype), Optimizer(kind="adamw_cpu", lr=1e-3)

    def start(seed):
        policy = policy_in(dtype, seed)
        optimizer = PolicyOptimizer(policy, config, num_steps=5, training=training)
        monkeypatch.setattr(optimizer._update, "_transfer", copies)
        return policy, optimizer

    whole, optimizer = start(0)
    train(whole, optimizer, range(3))
    save_training_state(tmp_path, 3, whole, optimizer)
    train(whole, optimizer, range(3, 5))
    resumed, optimizer = start(9)
    load_training_state(tmp_path, resumed, optimizer)
    train(resumed, optimizer, range(3, 5))
    assert all(map(torch.equal, weights_of(whole), weights_of(resumed)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_asynchronous_update_has_the_bits_of_the_synchronous_one(copies, monkeypatch, dtype):
    training, config = Training(dtype=dtype), Optimizer(kind="adamw_cpu", lr=1e-3)
    results = []
    for asynchronous in (True, False):
        policy = policy_in(dtype)
        optimizer = PolicyOptimizer(policy, config, num_steps=5, training=training)
        assert isinstance(optimizer._update, host_adamw.HostAdamW)
        if asynchronous:
            monkeypatch.setattr(optimizer._update, "_transfer", copies)
            for index, parameter in enumerate(optimizer._update.parameters):
                master = optimizer._update._masters[index]
                parameter.data = parameter.data.clone()
                assert master.data_ptr() != parameter.data_ptr()
        metrics = train(policy, optimizer, range(5))
        results.append((weights_of(policy), metrics["optimizer/grad_norm"]))
    assert all(map(torch.equal, results[0][0], results[1][0]))
    assert results[0][1] == results[1][1]


def test_weights_used_before_finish_are_noticed(copies, monkeypatch):
    policy = tiny_policy()
    optimizer = PolicyOptimizer(policy, Optimizer(kind="adamw_cpu", lr=1e-3), num_steps=5)
    monkeypatch.setattr(optimizer._update, "_transfer", copies)
    set_gradients(policy, 0)
    optimizer.step(0)
    set_gradients(policy, 1)
    with pytest.raises(AssertionError, match="before finish"):
        optimizer.step(1)
    optimizer.finish()
