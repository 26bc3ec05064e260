"""Training and sampling on all ranks: how they hold the weights, the engines that share prompts,
and what ranks do while the leader runs a stage by itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vibelite.models.load import load_policy
from vibelite.models.policy import Policy
from vibelite.planning.sharding import chosen_sharding
from vibelite.ranks.full_sharding import fully_sharded
from vibelite.ranks.world import World
from vibelite.recipe.stage_section import Sampling
from vibelite.rollout.engine import RolloutEngine
from vibelite.rollout.kv_memory import device_memory
from vibelite.rollout.shared_engine import SampleTask, SharedEngine
from vibelite.stages.context import StageContext, build_engine
from vibelite.training.precision import DTYPES


@dataclass(frozen=True, slots=True)
class OpenEngine:
    """Load this model and sample from it, until `CloseEngine`."""

    model: str
    """Relative to the run directory, which is another path for every node."""
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class CloseEngine:
    """Drop the model."""


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


def helper_of(engine: RolloutEngine | SharedEngine, context: StageContext) -> Callable[[Any], None]:
    """What a rank does with the sampling that the leader delegates."""

    def sample(task: SampleTask) -> None:
        assert isinstance(engine, SharedEngine), "the leader delegates to other ranks"
        with context.meter.span("rollout"):
            engine.help(task)

    return sample


def open_engine(
    model: Path, sampling: Sampling, context: StageContext
) -> tuple[Policy, RolloutEngine]:
    """The model in a directory and an engine that samples from it, on all ranks; `opened`
    ends it.
    """
    context.world.delegate(OpenEngine(os.path.relpath(model, context.run.path), sampling))
    with context.meter.span("load"):
        policy = load_policy(model)
    return policy, share_engine(build_engine(context.recipe, policy, sampling), sampling, context)


@contextmanager
def opened(engine: RolloutEngine, context: StageContext) -> Iterator[None]:
    """Closes what `open_engine` opened, on all ranks; after an error nobody listens any more."""
    try:
        yield
    finally:
        engine.close()
    context.world.delegate(CloseEngine())


def help_leader(context: StageContext) -> Callable[[Any], None]:
    """What a rank does while the leader runs a stage in which only sampling is shared."""
    opened: list[SharedEngine] = []

    def work_on(task: Any) -> None:
        match task:
            case OpenEngine():
                policy = load_policy(context.run.path / task.model)
                engine = build_engine(context.recipe, policy, task.sampling)
                shared = share_engine(engine, task.sampling, context)
                assert isinstance(shared, SharedEngine)
                opened.append(shared)
            case SampleTask():
                helper_of(opened[-1], context)(task)
            case CloseEngine():
                opened.pop().close()

    return work_on


def name_prompts(engine: RolloutEngine, names: list[str]) -> None:
    """Says what the next call's prompts are called in messages about other ranks."""
    if isinstance(engine, SharedEngine):
        engine.names = names
