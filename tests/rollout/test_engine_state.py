"""What may be done with an engine when: every wrong order has a message that says what to do."""

import pytest

from vibelite.errors import EngineError
from vibelite.rollout.engine_state import EngineState


def ready() -> EngineState:
    return EngineState(weights_are_whole=True)


def test_an_engine_that_never_got_weights_does_not_sample():
    with pytest.raises(EngineError, match="load the weights"):
        EngineState().require_all()
    ready().require_all()


@pytest.mark.parametrize("keep_weights", [True, False])
def test_weights_wake_before_a_push_and_the_kv_cache_before_sampling(keep_weights):
    state = ready()
    state.fall_asleep(weights=True, keep_weights=keep_weights)
    with pytest.raises(EngineError, match="its weights are"):
        state.require_all()
    with pytest.raises(EngineError, match="wake them before a sync"):
        state.require_weights()
    state.weights_are_awake = True
    state.require_weights()
    if not keep_weights:
        with pytest.raises(EngineError, match="dropped when it slept"):
            state.require_all()
        state.weights_are_whole = True
    with pytest.raises(EngineError, match="its KV cache is"):
        state.require_all()
    state.kv_cache_is_awake = True
    state.require_all()


def test_shared_weights_stay_awake():
    state = ready()
    state.fall_asleep(weights=False, keep_weights=False)
    state.require_weights()
    assert state.weights_are_whole
    with pytest.raises(EngineError, match="its KV cache is"):
        state.require_all()


def test_nothing_is_done_with_a_closed_engine():
    state = ready()
    state.is_closed = True
    for call in (state.require_open, state.require_weights, state.require_all):
        with pytest.raises(EngineError, match="closed"):
            call()
    with pytest.raises(EngineError, match="closed"):
        state.fall_asleep(weights=True, keep_weights=True)
