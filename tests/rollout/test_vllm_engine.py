"""The real vLLM beyond the contract of all engines: ways to share weights, planted faults, and what
it may not change in the trainer's process. On a CPU; nothing really sleeps there.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from tests.models.test_adapter import randomise
from tests.rollout.engines import PROMPTS, policy_for_vllm
from tests.rollout.engines import vllm_engine as start_engine
from vibelite.algorithms.policy_loss import mismatch_metrics
from vibelite.data.batching import TrainingSequence, pack
from vibelite.errors import EngineError
from vibelite.models.exchange import can_take, take_weights
from vibelite.models.load import attach, load_policy
from vibelite.models.policy import Policy
from vibelite.recipe.model_section import Adapter
from vibelite.rollout import vllm_engine
from vibelite.rollout.engine import SamplingSettings, generate
from vibelite.rollout.vllm_engine import VLLMEngine
from vibelite.rollout.vllm_start import scheduler_of

pytestmark = pytest.mark.vllm


@contextmanager
def opened(policy: Policy, **changes: Any) -> Iterator[VLLMEngine]:
    engine = start_engine(policy, **changes)
    try:
        yield engine
    finally:
        engine.close()


def views_of(engine: VLLMEngine) -> dict[str, torch.Tensor]:
    """The trainer's tensors as vLLM holds them."""
    return dict(engine._weights.views())


def change_weights(policy: Policy, factor: float = 0.9) -> None:
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.mul_(factor)


def mismatch(policy: Policy, engine: VLLMEngine, prompts=PROMPTS) -> dict[str, float]:
    """The engine's log-probs against the policy's on what it samples."""
    groups = generate(engine, prompts, SamplingSettings(3, 20), seed=4)
    sequences = [
        TrainingSequence(
            [*prompt, *one.token_ids],
            len(prompt),
            sampler_logprobs=one.sampler_logprobs,
        )
        for prompt, group in zip(prompts, groups, strict=True)
        for one in group
    ]
    batch = pack(sequences, torch.device("cpu"))
    with torch.no_grad():
        logprobs, _ = policy.logprobs(batch)
    assert batch.sampler_logprobs is not None
    return mismatch_metrics(logprobs - batch.sampler_logprobs[batch.completion_mask])


@pytest.mark.parametrize(
    ("sync", "dtype", "tied"),
    [
        ("auto", "float32", True),
        ("copy", "float32", False),
        ("copy", "float32", True),
        ("auto", "bfloat16", False),
        ("copy", "bfloat16", True),  # beside a trainer in float32
        ("auto", "float16", True),
    ],
)
def test_updates_arrive_through_sleep_and_wake(sync, dtype, tied):
    policy = policy_for_vllm()
    if not tied:
        policy.model.config.tie_word_embeddings = False
        policy.model.lm_head.weight = torch.nn.Parameter(policy.head.weight.detach().roll(1, 0))
    if sync == "auto":
        torch.nn.Module.to(policy.model, getattr(torch, dtype))
    limit = {"float32": 5e-5, "bfloat16": 0.3, "float16": 0.05}[dtype]
    with opened(policy, sync=sync, dtype=dtype) as engine:
        assert engine.settings.sync == {"auto": "alias"}.get(sync, sync)
        assert mismatch(policy, engine)["mismatch/max_abs"] <= limit
        for version in (1, 2):
            engine.sleep()
            change_weights(policy)
            with pytest.raises(EngineError, match="asleep"):
                generate(engine, PROMPTS, SamplingSettings(1, 2), seed=0)
            engine.load_weights(version)
            engine.wake()
            engine.wake()  # twice is once
            assert mismatch(policy, engine)["mismatch/max_abs"] <= limit
            assert engine.metrics()[f"sync/by_{engine.settings.sync}"] == 1.0
        engine.sleep()
        engine.wake()  # without a sync between
        assert mismatch(policy, engine)["mismatch/max_abs"] <= limit


@pytest.mark.parametrize("sync", ["alias", "copy"])
def test_a_running_engine_samples_from_the_next_model_once_it_has_its_weights(tmp_path, sync):
    first, second = policy_for_vllm(), policy_for_vllm(seed=1)
    for name, policy in (("first", first), ("second", second)):
        policy.save(tmp_path / name)
    policy = load_policy(tmp_path / "first")
    assert can_take(policy, tmp_path / "first", tmp_path / "second")
    with opened(policy, sync=sync, sleeps=False) as engine:
        before = generate(engine, PROMPTS, SamplingSettings(2, 8), seed=0)
        take_weights(policy, tmp_path / "second")
        if sync == "copy":
            with pytest.raises(EngineError, match="a sync was skipped"):
                generate(engine, PROMPTS, SamplingSettings(2, 8), seed=0)
        engine.load_weights(1)
        assert mismatch(second, engine)["mismatch/max_abs"] <= 5e-5
        assert generate(engine, PROMPTS, SamplingSettings(2, 8), seed=0) != before


def test_an_engine_is_woken_before_it_is_closed(monkeypatch):
    """Freed asleep, its memory would be lost to later engines (test_vllm_gpu.py)."""
    engine = start_engine(policy_for_vllm(), sync="copy")
    woken: list[list[str]] = []
    engine.sleep()
    monkeypatch.setattr(engine._llm, "wake_up", lambda tags: woken.append(tags))
    engine.close()
    assert woken == [["weights"], ["kv_cache"]]


def test_a_skipped_sync_is_caught_before_the_next_token():
    policy = policy_for_vllm()
    with opened(policy, sync="copy") as engine:
        change_weights(policy)
        with pytest.raises(EngineError, match="a sync was skipped"):
            generate(engine, PROMPTS, SamplingSettings(1, 2), seed=0)


def test_weights_that_changed_in_the_engine_alone_are_caught_by_name():
    policy = policy_for_vllm()
    with opened(policy, sync="copy") as engine:
        views = views_of(engine)
        names = [f"model.layers.{layer}.mlp.down_proj.weight" for layer in (0, 1)]
        first = views[names[0]].clone()
        views[names[0]].data.copy_(views[names[1]])
        views[names[1]].data.copy_(first)
        with pytest.raises(EngineError, match=rf"\({names[0]} and 1 more\) \(weights version 0"):
            generate(engine, PROMPTS, SamplingSettings(1, 2), seed=0)


def test_a_kv_cache_that_vllm_left_asleep_is_caught():
    policy = policy_for_vllm()
    with opened(policy, sync="copy") as engine:
        engine.sleep()
        engine.load_weights(1)
        with pytest.raises(EngineError, match=r"the engine is asleep \(its KV cache is\)"):
            generate(engine, PROMPTS, SamplingSettings(1, 2), seed=0)
        # Whoever believes that it was woken is told by vLLM itself.
        engine._state.kv_cache_is_awake = True
        with pytest.raises(EngineError, match=r"its KV cache is\) though it was woken"):
            generate(engine, PROMPTS, SamplingSettings(1, 2), seed=0)
        engine._state.kv_cache_is_awake = False
        engine.wake()
        assert mismatch(policy, engine)["mismatch/max_abs"] <= 5e-5


def test_a_push_that_copies_nothing_fails_at_once():
    policy = policy_for_vllm()
    with opened(policy, sync="copy") as engine:
        engine._weights.push = lambda: 0
        change_weights(policy)
        with pytest.raises(EngineError, match="are not the trainer's"):
            engine.load_weights(1)


def adapted() -> Policy:
    settings = Adapter(kind="lora", rank=3, alpha=5.0)
    policy = attach(policy_for_vllm(), settings, start=Path("base"), seed=1)
    randomise(policy, 1, 0.1)
    return policy


def test_an_adapter_arrives_merged():
    policy = adapted()
    with opened(policy) as engine:
        assert engine.settings.sync == "copy"
        assert mismatch(policy, engine)["mismatch/max_abs"] <= 2e-4
        long = [[*range(50, 114)]]  # two blocks of the cache: nothing of them may be reused
        assert mismatch(policy, engine, long)["mismatch/max_abs"] <= 2e-4
        engine.metrics()
        before = generate(engine, long, SamplingSettings(2, 20), seed=4)
        engine.sleep()
        randomise(policy, 2, 0.1)
        engine.load_weights(1)
        engine.wake()
        assert mismatch(policy, engine, long)["mismatch/max_abs"] <= 2e-4
        assert generate(engine, long, SamplingSettings(2, 20), seed=4) != before
        whole = sum(parameter.nbytes for parameter in policy.model.parameters())
        assert engine.metrics()["sync/copied_bytes"] > 0.8 * whole


def random_states() -> list[Any]:
    return [random.getstate(), repr(numpy.random.get_state()), torch.get_rng_state().tolist()]


def test_random_states_are_untouched_from_the_start_to_the_end():
    policy = policy_for_vllm()
    random.seed(5)
    numpy.random.seed(6)
    torch.manual_seed(7)
    before = random_states()
    engine = start_engine(policy, sync="copy")
    assert random_states() == before
    generate(engine, PROMPTS, SamplingSettings(2, 8), seed=1)
    stream = engine.stream(PROMPTS, SamplingSettings(4, 8), seed=1)
    next(stream)
    assert random_states() == before, "also between completions"
    stream.close()  # pyright: ignore[reportAttributeAccessIssue]
    engine.sleep()
    engine.load_weights(1)
    engine.wake()
    assert random_states() == before
    engine.close()
    assert random_states() == before


def test_settings_of_torch_and_of_the_garbage_collector_are_put_back():
    set_num_threads, num_threads = torch.set_num_threads, torch.get_num_threads()
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    torch.backends.cuda.enable_cudnn_sdp(True)
    frozen = gc.get_freeze_count()
    try:
        with opened(policy_for_vllm()):
            assert torch.set_num_threads is set_num_threads
            assert torch.get_num_threads() == num_threads
            assert torch.get_float32_matmul_precision() == "medium"
            assert torch.backends.cuda.cudnn_sdp_enabled()
            assert gc.get_freeze_count() == frozen
            torch.set_num_threads(num_threads + 1)
            assert torch.get_num_threads() == num_threads + 1
    finally:
        torch.set_num_threads(num_threads)
        torch.set_float32_matmul_precision(precision)


def test_a_process_group_of_its_own_ends_with_it(tmp_path):
    assert not torch.distributed.is_initialized()
    with opened(policy_for_vllm()):
        assert torch.distributed.is_initialized(), "vLLM makes one"
    assert not torch.distributed.is_initialized()


def test_the_trainers_process_group_survives_and_works(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1
    )
    try:
        for _ in range(2):
            with opened(policy_for_vllm()) as engine:
                generate(engine, PROMPTS, SamplingSettings(1, 4), seed=0)
            assert torch.distributed.is_initialized()
            total = torch.ones(3)
            torch.distributed.all_reduce(total)
            assert total.tolist() == [1, 1, 1]
    finally:
        torch.distributed.destroy_process_group()


def test_a_completion_does_not_depend_on_its_neighbours_or_on_preemptions():
    policy = policy_for_vllm()
    settings = SamplingSettings(8, 60)
    with opened(policy) as engine:
        together = generate(engine, PROMPTS, settings, seed=1)
        skip = {(p, s) for p in range(3) for s in range(8)} - {(1, 5)}
        ((_, _, alone),) = engine.stream(PROMPTS, settings, seed=1, skip=skip)
        assert alone.token_ids == together[1][5].token_ids
        assert engine.metrics()["rollout/preemptions"] == 0
    tight = 16 * 32 * 4 * 2 * 2 * 2 * 32  # 16 blocks: 24 completions of up to 3 do not fit
    with opened(policy, kv_cache_bytes=tight) as engine:
        again = generate(engine, PROMPTS, settings, seed=1)
        metrics = engine.metrics()
    assert [[one.token_ids for one in group] for group in again] == [
        [one.token_ids for one in group] for group in together
    ]
    assert metrics["rollout/preemptions"] > 0


def test_places_that_fall_free_are_filled_together(monkeypatch):
    monkeypatch.setattr(vllm_engine, "STEPS_BETWEEN_PROMPTS", 8)
    read = []
    with opened(policy_for_vllm(), max_sequences=6) as engine:
        scheduler = scheduler_of(engine._llm)
        schedule = scheduler.schedule

        def recorded(*arguments: Any) -> Any:
            output = schedule(*arguments)
            read.append(len(output.scheduled_new_reqs))
            return output

        monkeypatch.setattr(scheduler, "schedule", recorded)
        groups = generate(engine, PROMPTS, SamplingSettings(10, 24), seed=3)
    lengths = {len(one.token_ids) for group in groups for one in group}
    assert len(lengths) > 4  # they end at many steps
    assert sum(read) == 30
    assert all(step % 8 == 0 for step, prompts in enumerate(read) if prompts)


def test_the_window_truncates_and_a_prompt_that_fills_it_is_refused():
    with opened(policy_for_vllm(), max_model_len=32) as engine:
        (group,) = generate(engine, [[*range(50, 76)]], SamplingSettings(8, 30), seed=0)
        cut = [one for one in group if one.finish_reason == "length"]
        assert cut and all(len(one.token_ids) == 6 for one in cut)
        with pytest.raises(EngineError, match="32 tokens and leaves no room in the window of 32"):
            generate(engine, [[*range(50, 82)]], SamplingSettings(1, 4), seed=0)


def test_samples_of_a_prompt_share_its_cached_blocks():
    with opened(policy_for_vllm()) as engine:
        generate(engine, [[*range(50, 114)]], SamplingSettings(8, 4), seed=0)
        assert engine.metrics()["rollout/prefix_hit_share"] >= 0.4


def test_lengths_of_earlier_completions_order_the_next_call():
    policy = policy_for_vllm()
    with opened(policy) as engine:
        groups = generate(engine, PROMPTS, SamplingSettings(1, 30), seed=0)
        queued, submit = [], engine._submit

        def recording(request, prompt, settings, seed):
            queued.append(prompt)
            submit(request, prompt, settings, seed)

        engine._submit = recording
        generate(engine, PROMPTS, SamplingSettings(1, 30), seed=0)
    lengths = [len(group[0].token_ids) for group in groups]
    assert len(set(lengths)) > 1, "the case must have an order"
    longest_first = sorted(range(len(PROMPTS)), key=lambda index: -lengths[index])
    assert queued == [PROMPTS[index] for index in longest_first]


def test_a_temperature_that_vllm_would_change_silently_is_refused():
    with opened(policy_for_vllm()) as engine:
        for temperature in (0.005, 2.5):
            with pytest.raises(EngineError, match=f"temperature {temperature}"):
                settings = SamplingSettings(1, 4, temperature=temperature)
                generate(engine, PROMPTS, settings, seed=0)
