"""Starts vLLM in this process for a model that is not on disk; run with 0.30.0 (built for the CPU)
and 0.26.0 (one H100). Only this file and `vllm_side_effects.py` name vLLM's private parts.
"""

from __future__ import annotations

import copy
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from vibelite.errors import EngineError, RecipeError
from vibelite.hints import install
from vibelite.models.policy import Policy
from vibelite.rollout.vllm_side_effects import (
    announce_expandable_segments,
    isolated_random_state,
    isolated_settings,
    num_ranks,
)
from vibelite.rollout.vllm_weights import Slice

# Multiples of 32 tokens are what the CPU's attention can page; on a GPU vLLM chooses.
CPU_BLOCK_TOKENS = 32
# Only passes vLLM's check at start, which reads a share of the whole card as its own: the size of
# the KV cache is given in bytes.
SHARE_FOR_CHECK = 0.01


Sync = Literal["auto", "alias", "copy"]


@dataclass(frozen=True, slots=True)
class VLLMSettings:
    """How vLLM runs. Sizes are for one engine, `kv_cache_bytes` for one GPU of it.

    `tensor_parallel` consecutive ranks hold an engine together. `sync` auto = alias where possible,
    else copy. Where it `sleeps`, the KV cache and weights of its own are dropped.
    """

    stop_ids: tuple[int, ...]
    max_sequences: int
    max_model_len: int
    kv_cache_bytes: int
    dtype: str
    sync: Sync = "auto"
    sleeps: bool = True
    max_batched_tokens: int = 8192
    cuda_graphs: Literal["off", "decode", "full"] = "decode"
    tensor_parallel: int = 1


def is_vllm_installed() -> bool:
    """By import, not by name: builds of vLLM go under several names of distributions."""
    return importlib.util.find_spec("vllm") is not None


def resolved_sync(sync: Sync, policy: Policy, dtype: str, num_slices: int = 1) -> Sync:
    """alias or copy: auto is alias where the policy's weights can be the engine's own."""
    dtypes = {str(parameter.dtype) for parameter in policy.model.parameters()}
    can_share = policy.adapter is None and dtypes == {f"torch.{dtype}"} and num_slices == 1
    return sync if sync != "auto" else "alias" if can_share else "copy"


def start_vllm(policy: Policy, settings: VLLMSettings, directory: Path) -> Any:
    """vLLM's `LLM` with the policy's architecture and random weights, in this process.

    `directory` receives the configuration and must outlive the engine. RecipeError where vLLM is
    not installed, EngineError where it does not start.
    """
    if not is_vllm_installed():
        raise RecipeError(
            "rollout.engine is vllm, which is not installed; use rollout.engine: transformers, or "
            "run " + install("vibelite[gpu]")
        )
    on_gpu = torch.cuda.is_available()
    _prepare_environment(on_gpu)
    config = copy.deepcopy(policy.model.config)
    config.architectures = [type(policy.model).__name__]
    config.save_pretrained(directory)
    arguments = _arguments(settings, on_gpu)
    with isolated_random_state(), isolated_settings():
        from vllm import LLM  # pyright: ignore[reportMissingImports]

        if not on_gpu:
            _keep_weights_unpacked()
        try:
            return LLM(str(directory), **arguments)
        except (RuntimeError, ValueError, AssertionError, NotImplementedError) as error:
            reason = str(error).strip() or type(error).__name__
            raise EngineError(
                f"vLLM did not start: {reason}; where memory is the reason, lower "
                "max_sequences or max_new_tokens under stages.*.sampling, or "
                "rollout.vllm.max_prompt_tokens; else use rollout.engine: transformers"
            ) from error


def _prepare_environment(on_gpu: bool) -> None:
    """Variables that vLLM reads when it is imported; what the user has set is kept."""
    defaults = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    if on_gpu:
        announce_expandable_segments()
        if importlib.util.find_spec("flashinfer") is None:
            defaults["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
    else:
        # Binding threads to cores loses on a machine that does anything else: 250 against 4,000
        # tokens/s (0.4M parameters, 2 shared cores); the compiler costs 20 s at the first sample.
        defaults |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "TORCHDYNAMO_DISABLE": "1"}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    # The engine lives in this process: weights are shared, and nothing is pickled.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"


def _arguments(settings: VLLMSettings, on_gpu: bool) -> dict[str, Any]:
    batched = max(settings.max_batched_tokens, settings.max_sequences)
    arguments: dict[str, Any] = {
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "dtype": settings.dtype,
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.max_sequences,
        "max_num_batched_tokens": batched,
        "kv_cache_memory_bytes": settings.kv_cache_bytes,
        "gpu_memory_utilization": SHARE_FOR_CHECK,
        "enable_prefix_caching": True,
        "enable_chunked_prefill": True,
        # The sampled token's, after temperature: what importance weights need.
        "logprobs_mode": "processed_logprobs",
        "disable_log_stats": True,
    }
    if num_ranks() > 1:
        # Each rank is a worker with its own scheduler, on the GPU that LOCAL_RANK says.
        arguments["distributed_executor_backend"] = "external_launcher"
        arguments["tensor_parallel_size"] = settings.tensor_parallel
    if not on_gpu:
        # A prompt read in parts makes the CPU's runner wind back a random generator, which torch's
        # generators for the CPU cannot do (RuntimeError in 0.30.0).
        return arguments | {
            "block_size": CPU_BLOCK_TOKENS,
            "enforce_eager": True,
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(batched, settings.max_model_len),
        }
    if settings.sleeps:
        arguments["enable_sleep_mode"] = True
        if settings.sync == "alias":
            arguments["worker_cls"] = "vibelite.rollout.vllm_worker.ResidentWeightsWorker"
    if importlib.util.find_spec("flashinfer") is None and settings.dtype != "float32":
        arguments["attention_backend"] = "FLASH_ATTN"
    match settings.cuda_graphs:
        case "off":
            arguments["enforce_eager"] = True
        case "decode":  # without the compiler, whose first start takes minutes
            arguments["compilation_config"] = {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}
        case "full":
            pass
    return arguments


def _keep_weights_unpacked() -> None:
    """On a CPU vLLM packs weights for oneDNN, which leaves a tied head stale after a push and no
    tensor to share; without it they stay as they are.
    """
    import vllm._custom_ops as operators  # pyright: ignore[reportMissingImports]

    operators._supports_onednn = False


def sampling_params(
    settings: VLLMSettings, max_new_tokens: int, temperature: float, top_p: float, seed: int
) -> Any:
    """vLLM's parameters of one completion. EngineError for what vLLM would change silently."""
    from vllm import SamplingParams  # pyright: ignore[reportMissingImports]
    from vllm.sampling_params import RequestOutputKind  # pyright: ignore[reportMissingImports]

    if temperature > 2 or 0 < temperature < 0.01:
        raise EngineError(
            f"temperature {temperature}: vLLM samples at 0 or from 0.01 to 2; change it, or use "
            "rollout.engine: transformers"
        )
    return SamplingParams(
        temperature=temperature,
        top_p=top_p,
        max_tokens=max_new_tokens,
        seed=seed,
        # The engine's own stop tokens, not those of the model's configuration.
        ignore_eos=True,
        stop_token_ids=list(settings.stop_ids),
        logprobs=0,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def model_of(llm: Any) -> Any:
    """vLLM's torch module."""
    return llm.llm_engine.model_executor.driver_worker.worker.model_runner.model


def slice_of(settings: VLLMSettings) -> Slice:
    """Which slices of the weights this process holds."""
    if settings.tensor_parallel == 1:
        return Slice()
    from vllm.distributed import (  # pyright: ignore[reportMissingImports]
        get_tensor_model_parallel_rank,
    )

    return Slice(get_tensor_model_parallel_rank(), settings.tensor_parallel)


def scheduler_of(llm: Any) -> Any:
    return llm.llm_engine.engine_core.engine_core.scheduler


def has_work(llm: Any) -> bool:
    """Is a request unfinished, or a step begun whose outcome nobody has asked for?"""
    core = llm.llm_engine.engine_core.engine_core
    return llm.llm_engine.has_unfinished_requests() or bool(core.batch_queue)
