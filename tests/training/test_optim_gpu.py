"""What only a GPU can show: streams in both directions, 8-bit and paged moments, scaled losses."""

import pytest
import torch

from tests.policies import random_sequences, tiny_policy
from tests.saving import save_training_state
from tests.training.gradients import policy_in, set_gradients, train, weights_of
from vibelite.recipe.model_section import Training
from vibelite.recipe.stage_section import Optimizer, SFTStage
from vibelite.stages.sft import accumulate_gradient
from vibelite.training import pinned_copies
from vibelite.training.checkpoint import load_training_state
from vibelite.training.device_update import DeviceUpdate
from vibelite.training.optim import PolicyOptimizer

pytestmark = pytest.mark.gpu
BIG = {"hidden_size": 512, "mlp_size": 2048}  # 8-bit moments and paging start at 1e5 entries


def gpu_policy(dtype="float32", seed=0, **sizes):
    policy = tiny_policy(seed, **sizes)
    policy.model.to(device="cuda", dtype=getattr(torch, dtype))  # pyright: ignore[reportCallIssue]
    return policy


def optimizer_over(policy, kind, training, **settings):
    config = Optimizer(kind=kind, lr=1e-3, warmup_fraction=0, weight_decay=0.1, **settings)
    return PolicyOptimizer(policy, config, num_steps=20, training=training)


def moments_of(optimizer):
    """The first moments of an 8-bit optimizer."""
    assert isinstance(optimizer._update, DeviceUpdate)
    (part,) = optimizer._update._parts
    return [state["state1"] for state in part.optimizer.state.values()]


def is_paged(optimizer):
    return any(getattr(moment, "is_paged", False) for moment in moments_of(optimizer))


def relative_distance(policy, other, start):
    """Distance between two sets of weights, as a share of how far `other` went from `start`."""
    mine, exact, before = (
        torch.cat([w.double().flatten().cpu() for w in weights])
        for weights in (weights_of(policy), weights_of(other), start)
    )
    return ((mine - exact).norm() / (exact - before).norm()).item()


@pytest.mark.parametrize("buffer_bytes", [1024, pinned_copies.BUFFER_BYTES])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_streamed_adamw_has_the_bits_of_adamw_on_a_cpu(dtype, buffer_bytes, monkeypatch):
    """The same gradients by the same CPU code, whether they came through pinned buffers or not."""
    monkeypatch.setattr(pinned_copies, "BUFFER_BYTES", buffer_bytes)
    training = Training(dtype=dtype)
    streamed, local = gpu_policy(dtype), policy_in(dtype)
    train(streamed, optimizer_over(streamed, "adamw_cpu", training), range(10))
    train(local, optimizer_over(local, "adamw_cpu", training), range(10))
    for mine, other in zip(weights_of(streamed), weights_of(local), strict=True):
        assert torch.equal(mine.cpu(), other)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_stream_out_during_backward_and_sum_like_on_the_device(dtype):
    """Real backward passes of several micro-batches, back to back, against AdamW on the GPU."""
    stage = SFTStage(
        kind="sft", num_steps=5, checkpoint_every=1, optimizer=Optimizer(lr=1e-3),
        tokens_per_micro_batch=60,
    )  # fmt: skip
    training, start = Training(dtype=dtype), weights_of(gpu_policy(dtype))
    policies = {kind: gpu_policy(dtype) for kind in ("adamw", "adamw_cpu")}
    for kind, policy in policies.items():
        optimizer = optimizer_over(policy, kind, training)
        for step in range(5):
            accumulate_gradient(policy, random_sequences(24, seed=step), stage)
            if kind == "adamw_cpu":
                assert all(parameter.grad is None for parameter in policy.trainable_parameters())
            optimizer.step(step)
            optimizer.finish()
    tolerance = 1e-3 if dtype == "float32" else 0.1
    assert relative_distance(policies["adamw_cpu"], policies["adamw"], start) < tolerance


def test_the_update_waits_for_work_that_still_reads_the_weights():
    """The old weights are what a kernel sees that was launched before the step."""
    policy = gpu_policy("bfloat16", **BIG)
    optimizer = optimizer_over(policy, "adamw_cpu", Training(dtype="bfloat16"))
    weights = next(iter(policy.trainable_parameters())).detach()
    before = weights.clone()
    for step in range(5):
        set_gradients(policy, step)
        torch.cuda._sleep(200_000_000)  # about 0.1 s in which the step could overtake
        seen = weights.clone()
        optimizer.step(step)
        optimizer.finish()
        after = weights.clone()
        assert torch.equal(seen, before)
        assert not torch.equal(after, before)
        before = after


def test_adamw_on_the_host_holds_nothing_but_weights_on_the_device():
    torch.cuda.empty_cache()
    policy = gpu_policy("bfloat16", **BIG)
    optimizer = optimizer_over(policy, "adamw_cpu", Training(dtype="bfloat16"))
    held = torch.cuda.memory_allocated()
    train(policy, optimizer, range(3))
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == held


@pytest.mark.parametrize("kind", ["adamw_8bit", "adamw_8bit_paged"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_8_bit_moments_follow_exact_ones(kind, dtype):
    pytest.importorskip("bitsandbytes")
    training, start = Training(dtype=dtype), weights_of(gpu_policy(dtype, **BIG))
    coarse, exact = gpu_policy(dtype, **BIG), gpu_policy(dtype, **BIG)
    optimizer = optimizer_over(coarse, kind, training)
    train(coarse, optimizer, range(10))
    train(exact, optimizer_over(exact, "adamw", training), range(10))
    assert 0 < relative_distance(coarse, exact, start) < 0.1
    assert torch.uint8 in {moment.dtype for moment in moments_of(optimizer)}
    assert is_paged(optimizer) == (kind == "adamw_8bit_paged")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit", "adamw_8bit_paged", "adamw_cpu"])
def test_resuming_equals_not_stopping_bit_for_bit(tmp_path, kind, dtype):
    if "8bit" in kind:
        pytest.importorskip("bitsandbytes")
    training = Training(dtype=dtype)
    whole = gpu_policy(dtype, **BIG)
    train(whole, optimizer_over(whole, kind, training), range(10))
    first = gpu_policy(dtype, **BIG)
    optimizer = optimizer_over(first, kind, training)
    train(first, optimizer, range(4))
    save_training_state(tmp_path, 4, first, optimizer)
    second = gpu_policy(dtype, seed=9, **BIG)
    optimizer = optimizer_over(second, kind, training)
    load_training_state(tmp_path, second, optimizer)
    if kind == "adamw_8bit_paged":
        assert is_paged(optimizer)
    train(second, optimizer, range(4, 10))
    assert all(map(torch.equal, weights_of(whole), weights_of(second)))


@pytest.mark.parametrize("kind", ["adamw", "adamw_cpu"])
def test_float16_sft_overflows_once_and_then_trains(kind):
    stage = SFTStage(kind="sft", num_steps=8, checkpoint_every=1, optimizer=Optimizer(lr=1e-3))
    policy = gpu_policy("float16")
    optimizer = optimizer_over(policy, kind, Training(dtype="float16"))
    assert optimizer._loss_scale is not None
    optimizer._loss_scale.value = 2.0**30
    losses, skipped = [], []
    for step in range(30):
        loss, _ = accumulate_gradient(
            policy, random_sequences(8), stage, loss_scale=optimizer.loss_scale
        )
        metrics = optimizer.step(step)
        optimizer.finish()
        losses.append(loss)
        skipped.append(metrics["optimizer/skipped_steps"])
    assert 0 < skipped[-1] < 20
    assert skipped[-1] == skipped[-5]
    assert losses[-1] < 0.9 * losses[0]
