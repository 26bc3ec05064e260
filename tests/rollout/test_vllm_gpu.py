"""vLLM on a GPU, where it really sleeps: memory is given back; what wakes is what was pushed."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu_vllm_parts import Part, Sizes, cycles, make_policy, mismatch, start, used_bytes

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.vllm,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

SIZES = Sizes(((64, 512, 1),), 2, (8, 64))


@pytest.mark.parametrize("sync", ["alias", "copy"])
def test_a_sleeping_engine_gives_its_memory_back_and_wakes_with_the_trainers_weights(sync):
    device = torch.device("cuda")
    policy = make_policy(None, True, device)
    engine = start(policy, Part(sync, sync, True), SIZES)
    try:
        awake = used_bytes(device)
        measured = cycles(policy, engine, SIZES)
        assert awake is not None, "told on a GPU"
        freed = awake - measured["used_bytes_asleep"]
        assert freed >= 0.9 * engine.settings.kv_cache_bytes
        assert measured["used_bytes_awake"] >= awake - 0.1 * engine.settings.kv_cache_bytes
        assert measured["total_seconds"] < 1.0
        assert mismatch(policy, engine, SIZES)["mismatch/k3"] < 0.01
    finally:
        engine.close()


@pytest.mark.parametrize("sync", ["alias", "copy"])
def test_an_engine_that_is_closed_asleep_leaves_its_memory_to_the_next(sync):
    """Two stages of reinforcement in one process: the first one ends with its engine asleep."""
    policy = make_policy(None, True, torch.device("cuda"))
    for _ in range(2):
        engine = start(policy, Part(sync, sync, True), SIZES)
        try:
            assert mismatch(policy, engine, SIZES)["mismatch/k3"] < 0.01
            engine.sleep()
        finally:
            engine.close()
