"""The engines that stages sample with: built from the recipe, shared by all ranks, and kept open
from one model to the next; and what other ranks do while the leader runs a stage by itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vibelite.data.chat import stop_token_ids
from vibelite.errors import RecipeError
from vibelite.models.exchange import can_take, take_weights
from vibelite.models.load import load_policy
from vibelite.models.policy import Policy
from vibelite.planning.memory_model import (
    UPDATE_BUFFER_BYTES,
    bytes_per_parameter,
    chosen_sharding,
)
from vibelite.ranks.full_sharding import FullyShardedPolicy, fully_sharded
from vibelite.ranks.ranks import num_ranks_given
from vibelite.ranks.world import World
from vibelite.recipe.schema import Recipe
from vibelite.recipe.stage_section import Optimizer, Sampling
from vibelite.rollout.engine import RolloutEngine
from vibelite.rollout.kv_memory import BatchSizes, device_memory, engine_shape, kv_cache_bytes
from vibelite.rollout.shared_engine import SampleTask, SharedEngine
from vibelite.rollout.transformers_engine import TransformersEngine
from vibelite.rollout.vllm_engine import VLLMEngine
from vibelite.rollout.vllm_start import Sync, VLLMSettings, resolved_sync
from vibelite.stages.context import StageContext
from vibelite.stages.rollout import helper_of
from vibelite.training.precision import DTYPES

# Tokens read in one pass: enough to keep a GPU busy; on a CPU it only delays what is decoding.
BATCHED_TOKENS = {"cuda": 8192, "cpu": 1024}


def build_engine(
    recipe: Recipe, policy: Policy, sampling: Sampling, optimizer: Optimizer | None = None
) -> RolloutEngine:
    """The recipe's rollout engine over `policy`, which `optimizer` trains between rollouts;
    completions end at any of the model's end tokens. RecipeError, EngineError.
    """
    match recipe.rollout.engine:
        case "transformers":
            return TransformersEngine(
                policy, stop_ids=stop_ids_of(policy), max_sequences=sampling.max_sequences
            )
        case "vllm":
            return VLLMEngine(policy, vllm_settings(recipe, policy, sampling, optimizer))


def stop_ids_of(policy: Policy) -> tuple[int, ...]:
    model = policy.model
    configs = (model.generation_config, model.config, model.config.get_text_config())
    return stop_token_ids(policy.tokenizer, *configs)


def vllm_settings(
    recipe: Recipe, policy: Policy, sampling: Sampling, optimizer: Optimizer | None
) -> VLLMSettings:
    """vLLM in this process. With an `optimizer` the policy is trained between rollouts: room is
    left for the optimizer's state, and the engine sleeps.
    """
    chosen, num_slices = recipe.rollout.vllm, recipe.rollout.tensor_parallel
    config, parameters = policy.model.config, list(policy.model.parameters())
    dtype = parameters[0].dtype if chosen.dtype == "auto" else getattr(torch, chosen.dtype)
    window = sampling.max_new_tokens + chosen.max_prompt_tokens
    batch = BatchSizes(
        max_sequences=sampling.max_sequences,
        max_model_len=min(window, getattr(config, "max_position_embeddings", window)),
        max_batched_tokens=max(BATCHED_TOKENS[policy.device.type], sampling.max_sequences),
    )
    name = str(dtype).removeprefix("torch.")
    sync = resolved_sync(chosen_sync(recipe, policy), policy, name, num_slices)
    num_held = sum(parameter.numel() for parameter in parameters) // num_slices
    num_own = 0 if sync == "alias" else num_held
    free, total = device_memory(policy.device)
    free -= state_bytes(recipe, policy, optimizer) + num_own * dtype.itemsize
    shape = engine_shape(config, dtype, batch, num_slices=num_slices)
    return VLLMSettings(
        stop_ids=stop_ids_of(policy),
        max_sequences=batch.max_sequences,
        max_model_len=batch.max_model_len,
        kv_cache_bytes=kv_cache_bytes(shape, free_bytes=free, total_bytes=total),
        dtype=name,
        sync=sync,
        sleeps=optimizer is not None,
        max_batched_tokens=batch.max_batched_tokens,
        cuda_graphs=chosen.cuda_graphs,
        tensor_parallel=num_slices,
    )


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


def chosen_sync(recipe: Recipe, policy: Policy) -> Sync:
    """How weights come to the engine; those that are cut for training cannot be shared with it."""
    sync = recipe.rollout.vllm.sync
    if not isinstance(policy, FullyShardedPolicy):
        return sync
    if sync == "alias":
        raise RecipeError(
            "rollout.vllm.sync: alias needs weights that stay whole, and parallel.sharding cuts "
            "them for training; use auto"
        )
    return "copy"


@dataclass(frozen=True, slots=True)
class OpenEngine:
    """Sample from this model, until `CloseEngine`."""

    model: str
    """Relative to the run directory, which is another path for every node."""
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class CloseEngine:
    """Drop the model."""


@dataclass(slots=True)
class Opened:
    """An engine that stays open for further models of one configuration."""

    policy: Policy
    engine: RolloutEngine | SharedEngine
    model: Path
    sizes: tuple[int, int]
    num_models: int = 1

    def close(self) -> None:
        self.engine.close()


def share_weights(policy: Policy, context: StageContext) -> Policy:
    """The policy that the ranks train together: `policy`, or its weights cut over the ranks.

    Before an engine is built over it; called by all ranks. RecipeError.
    """
    world, device = context.world, policy.device
    num_parameters = sum(p.numel() for p in policy.model.parameters())
    choice = partial(
        chosen_sharding,
        context.recipe,
        num_parameters,
        num_gpus=world.num_ranks,
        memory_bytes=None if device.type == "cpu" else device_memory(device)[1],
    )
    is_whole = world.from_leader(choice) == "optimizer"  # GPUs may differ
    if is_whole or not isinstance(world, World):
        return policy
    training = context.recipe.training
    types = {"dtype": DTYPES[training.dtype], "gradient_dtype": DTYPES[training.gradient_dtype]}
    return fully_sharded(policy, world, **types)


def share_engine(
    engine: RolloutEngine, sampling: Sampling, context: StageContext
) -> RolloutEngine | SharedEngine:
    """`engine` with those of the other ranks, which build theirs at the same time; itself in a
    world of one.
    """
    if context.world.is_one:
        return engine
    waiting = partial(context.meter.span, "wait")
    size = context.recipe.rollout.tensor_parallel
    return SharedEngine(
        engine, context.world, sampling.max_sequences, waiting, tensor_parallel=size
    )


def own_engine(engine: RolloutEngine | SharedEngine) -> RolloutEngine:
    """This rank's part of a shared engine."""
    return engine.own if isinstance(engine, SharedEngine) else engine


def open_engine(
    model: Path, sampling: Sampling, context: StageContext
) -> tuple[Policy, RolloutEngine | SharedEngine]:
    """The model in a directory and an engine that samples from it, on all ranks: the one that is
    open, with new weights, where model and sizes allow it. It stays open.
    """
    context.world.delegate(OpenEngine(os.path.relpath(model, context.run.path), sampling))
    opened = open_here(model, sampling, context)
    return opened.policy, opened.engine


def open_here(model: Path, sampling: Sampling, context: StageContext) -> Opened:
    """`open_engine` on one rank; all decide alike, as they see the same files."""
    meter, sizes = context.meter, (sampling.max_new_tokens, sampling.max_sequences)
    opened = context.opened[-1] if context.opened else None
    if opened is None or opened.sizes != sizes:
        fits = False
    else:
        with meter.span("load"):
            fits = model == opened.model or can_take(opened.policy, opened.model, model)
    if opened is None or not fits:
        context.close_engine()
        with meter.span("load"):
            policy = load_policy(model)
        with meter.span("engine"):
            engine = share_engine(build_engine(context.recipe, policy, sampling), sampling, context)
        context.opened.append(opened := Opened(policy, engine, model, sizes))
    elif model != opened.model:
        with meter.span("load"):
            take_weights(opened.policy, model)
        with meter.span("sync"):
            opened.engine.load_weights(opened.num_models)
        opened.model, opened.num_models = model, opened.num_models + 1
    return opened


def close_engine(context: StageContext) -> None:
    """Closes what `open_engine` left open, on all ranks: before something else needs its memory."""
    context.world.delegate(CloseEngine())
    context.close_engine()


def help_leader(context: StageContext) -> Callable[[Any], None]:
    """What a rank does while the leader runs a stage in which only sampling is shared."""

    def work_on(task: Any) -> None:
        match task:
            case OpenEngine():
                open_here(context.run.path / task.model, task.sampling, context)
            case SampleTask():
                helper_of(context.opened[-1].engine, context)(task)
            case CloseEngine():
                context.close_engine()

    return work_on
