"""What may be done with an engine when: every wrong order has a message that says what to do."""

import pytest

from vibelite.errors import EngineError
from vibelite.rollout.vllm_engine import EngineState


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights_are_pushed": False}, r"\(its weights were dropped\); load its weights and wake"),
        ({"weights_are_awake": False}, r"\(its weights are\)"),
        ({"kv_cache_is_awake": False}, r"\(its KV cache is\)"),
        ({"weights_are_awake": False, "kv_cache_is_awake": False}, "its weights are, its KV cache"),
        ({"is_closed": True}, "closed; build another one"),
    ],
)
def test_an_engine_samples_only_with_everything_in_memory(changes, message):
    EngineState(weights_are_pushed=True).require_all()
    with pytest.raises(EngineError, match=message):
        EngineState(**{"weights_are_pushed": True, **changes}).require_all()
