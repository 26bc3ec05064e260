"""vLLM runs in the trainer's process and changes its settings; this puts them back.

Put back: the global random states, torch's number of threads and `torch.set_num_threads` itself,
the matmul precision, the cuDNN attention switch, and `gc.freeze`. A default process group that was
there before stays. Not put back: variables that only vLLM reads, the CPU worker's memory binding.
"""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

ALLOCATOR_VARIABLE = "PYTORCH_CUDA_ALLOC_CONF"
ALLOCATOR_ALIAS = "PYTORCH_ALLOC_CONF"


@contextmanager
def isolated_random_state() -> Iterator[None]:
    """Afterwards the random states of Python, numpy and torch are what they were."""
    import numpy

    python_state, numpy_state = random.getstate(), numpy.random.get_state()
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(gpus):
            yield
    finally:
        random.setstate(python_state)
        numpy.random.set_state(numpy_state)


@contextmanager
def isolated_settings() -> Iterator[None]:
    """Afterwards torch's process-wide settings and the garbage collector are what they were."""
    set_num_threads, num_threads = torch.set_num_threads, torch.get_num_threads()
    precision = torch.get_float32_matmul_precision()
    cudnn_attention = torch.backends.cuda.cudnn_sdp_enabled()
    num_frozen = gc.get_freeze_count()
    try:
        yield
    finally:
        torch.set_num_threads = set_num_threads
        if torch.get_num_threads() != num_threads:
            torch.set_num_threads(num_threads)
        torch.set_float32_matmul_precision(precision)
        torch.backends.cuda.enable_cudnn_sdp(cudnn_attention)
        if gc.get_freeze_count() and not num_frozen:
            gc.unfreeze()


def announce_expandable_segments() -> None:
    """Lets vLLM see that torch's allocator uses expandable segments.

    Its sleeping pool cannot live with them and switches them off around itself, but it looks for
    the setting under the old name of the variable only.
    """
    settings = os.environ.get(ALLOCATOR_ALIAS, "")
    if "expandable_segments:True" in settings and ALLOCATOR_VARIABLE not in os.environ:
        os.environ[ALLOCATOR_VARIABLE] = settings


def has_process_group() -> bool:
    """Is there a default process group? Whoever started it ends it."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def num_ranks() -> int:
    """Processes of the run."""
    return torch.distributed.get_world_size() if has_process_group() else 1


def shut_down(llm: Any, *, keep_process_group: bool) -> None:
    """Ends an engine in this process.

    vLLM's own shutdown ends the default process group even if others made it. With
    `keep_process_group` only vLLM's groups within it end.
    """
    core = llm.llm_engine.engine_core.engine_core
    _forget_graph_pool()
    if not keep_process_group:
        core.shutdown()
        return
    from vllm.distributed import parallel_state  # pyright: ignore[reportMissingImports]

    core.structured_output_manager.clear_backend()
    core.model_executor.shutdown()
    core.scheduler.shutdown()
    gc.unfreeze()
    parallel_state.destroy_model_parallel()
    # The world group of vLLM wraps the trainer's; only the wrapper is forgotten.
    parallel_state._WORLD = None


def _forget_graph_pool() -> None:
    """Lets the process's next engine capture its CUDA graphs in a pool of their own.

    vLLM has one pool for all engines of a process; torch refuses to capture into it again once this
    engine's graphs are gone (an internal assertion about its use count; seen with 0.26.0).
    """
    from vllm.platforms import current_platform  # pyright: ignore[reportMissingImports]

    type(current_platform)._global_graph_pool = None
