"""Which parts of an engine are in memory; it refuses to sample unless all of them are.

Weights and KV cache fall asleep together. Weights wake first, so that new ones can be pushed while
the KV cache's memory still belongs to the trainer.
"""

from __future__ import annotations

from dataclasses import dataclass

from vibelite.errors import EngineError


@dataclass(slots=True)
class EngineState:
    """`awake` means in memory. `weights_are_whole` is False until weights are pushed, and again
    after they were dropped.
    """

    weights_are_awake: bool = True
    weights_are_whole: bool = False
    kv_cache_is_awake: bool = True
    is_closed: bool = False

    def require_open(self) -> None:
        if self.is_closed:
            raise EngineError("the engine is closed; build another one")

    def require_weights(self) -> None:
        """Before weights are pushed: writing to memory that is not mapped corrupts or crashes."""
        self.require_open()
        if not self.weights_are_awake:
            raise EngineError("the engine's weights are asleep; wake them before a sync")

    def require_all(self) -> None:
        """Before sampling."""
        self.require_open()
        if not self.weights_are_awake:
            raise EngineError("the engine is asleep (its weights are); wake it before generating")
        if not self.weights_are_whole:
            raise EngineError(
                "the engine's weights were dropped when it slept and have not been pushed since; "
                "load the weights before generating"
            )
        if not self.kv_cache_is_awake:
            raise EngineError("the engine is asleep (its KV cache is); wake it before generating")

    def fall_asleep(self, *, weights: bool, keep_weights: bool) -> None:
        """The KV cache is dropped. With `weights` they leave the GPU too, and are dropped unless
        `keep_weights`.
        """
        self.require_open()
        self.kv_cache_is_awake = False
        if weights:
            self.weights_are_awake = False
            self.weights_are_whole = self.weights_are_whole and keep_weights
