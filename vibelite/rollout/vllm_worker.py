"""vLLM's GPU worker with its weights outside the pool that sleeps, named to vLLM by `worker_cls`.

For weights that are also the trainer's: they stay where they are and only the KV cache sleeps.
vLLM (0.26 to 0.30) has no setting for that. Loaded by vLLM alone, and only with a GPU.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from vllm.v1.worker.gpu_worker import Worker  # pyright: ignore[reportMissingImports]


class ResidentWeightsWorker(Worker):
    def _maybe_get_memory_pool_context(self, tag: str) -> AbstractContextManager:
        if tag == "weights":
            return nullcontext()
        return super()._maybe_get_memory_pool_context(tag)
