"""The recipe's vLLM engine over a policy: sizes and types that the engine itself cannot know."""

from __future__ import annotations

import torch

from vibelite.data.chat import end_token_id
from vibelite.errors import RecipeError
from vibelite.models.policy import Policy
from vibelite.planning.optimizer_memory import UPDATE_BUFFER_BYTES, bytes_per_parameter
from vibelite.ranks.full_sharding import FullyShardedPolicy
from vibelite.ranks.join import num_ranks_given
from vibelite.recipe.schema import Recipe
from vibelite.recipe.stage_section import Optimizer, Sampling
from vibelite.rollout.kv_memory import device_memory, engine_shape, kv_cache_bytes
from vibelite.rollout.vllm_engine import VLLMEngine
from vibelite.rollout.vllm_start import Sync, VLLMSettings

# Tokens read in one pass: enough to keep a GPU busy; on a CPU it only delays what is decoding.
BATCHED_TOKENS = {"cuda": 8192, "cpu": 1024}


def build_vllm_engine(
    recipe: Recipe, policy: Policy, sampling: Sampling, optimizer: Optimizer | None
) -> VLLMEngine:
    """vLLM in this process. With an `optimizer` the policy is trained between rollouts: room is
    left for the optimizer's state, and the engine sleeps. RecipeError, EngineError.
    """
    chosen = recipe.rollout.vllm
    dtype = next(policy.model.parameters()).dtype
    if chosen.dtype != "auto":
        dtype = getattr(torch, chosen.dtype)
    config = policy.model.config
    window = sampling.max_new_tokens + chosen.max_prompt_tokens
    window = min(window, getattr(config, "max_position_embeddings", window))
    batched = max(BATCHED_TOKENS[policy.device.type], sampling.max_sequences)
    shape = engine_shape(
        config, dtype,
        max_sequences=sampling.max_sequences, max_model_len=window, batched=batched,
        num_slices=recipe.rollout.tensor_parallel,
    )  # fmt: skip
    if chosen.kv_cache_gib:
        kv_bytes = int(chosen.kv_cache_gib * 2**30)
    else:
        free, total = device_memory(policy.device)
        free -= state_bytes(recipe, policy, optimizer) + _own_weights(recipe, policy, dtype)
        kv_bytes = kv_cache_bytes(shape, free_bytes=free, total_bytes=total)
    settings = VLLMSettings(
        stop_ids=(end_token_id(policy.tokenizer),),
        max_sequences=sampling.max_sequences,
        max_model_len=window,
        kv_cache_bytes=kv_bytes,
        dtype=str(dtype).removeprefix("torch."),
        sync=_sync(recipe, policy),
        sleep_level=chosen.sleep_level if optimizer else 0,
        max_batched_tokens=batched,
        cuda_graphs=chosen.cuda_graphs,
        batch_invariant=chosen.batch_invariant,
        loop_tokens=chosen.loop_tokens,
        loop_repeats=chosen.loop_repeats,
        tensor_parallel=recipe.rollout.tensor_parallel,
    )
    return VLLMEngine(policy, settings)


def state_bytes(recipe: Recipe, policy: Policy, optimizer: Optimizer | None) -> int:
    """Bytes that the trainer will hold on the device while the engine samples, and does not yet.
    Several ranks share them.
    """
    if optimizer is None or policy.device.type != "cuda":
        return 0
    training = recipe.training
    each = bytes_per_parameter(optimizer.kind, training.dtype, training.gradient_dtype)
    trained = sum(parameter.numel() for parameter in policy.trainable_parameters())
    buffers = UPDATE_BUFFER_BYTES if training.gradient_dtype == "bfloat16" else 0
    state = each.masters + each.moments + each.pageable
    return int(state * trained / num_ranks_given()) + buffers


def _own_weights(recipe: Recipe, policy: Policy, dtype: torch.dtype) -> int:
    """Bytes of the engine's weights on this GPU where it has its own."""
    parameters = list(policy.model.parameters())
    is_shared = (
        recipe.adapter is None
        and recipe.rollout.tensor_parallel == 1
        and _sync(recipe, policy) in ("auto", "alias")
        and all(parameter.dtype == dtype for parameter in parameters)
    )
    if is_shared:
        return 0
    num_parameters = sum(parameter.numel() for parameter in parameters)
    return num_parameters * dtype.itemsize // recipe.rollout.tensor_parallel


def _sync(recipe: Recipe, policy: Policy) -> Sync:
    sync = recipe.rollout.vllm.sync
    if recipe.adapter is None and sync == "adapter":
        raise RecipeError(
            "rollout.vllm.sync: adapter needs an adapter, and the recipe has none; use auto"
        )
    if not isinstance(policy, FullyShardedPolicy):
        return sync
    if sync == "alias":
        raise RecipeError(
            "rollout.vllm.sync: alias needs weights that stay whole, and parallel.sharding cuts "
            "them for training; use auto"
        )
    return "copy" if sync == "auto" else sync
