"""Supervised fine-tuning on packed traces, loss on completions only, with the checkpoints that
`probe` chooses from.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from vibelite.data.batching import TrainingSequence, pack, share_by_tokens, split_by_tokens
from vibelite.data.chat import trace_ids
from vibelite.data.prompt_sampler import indices_for_step
from vibelite.errors import DataError
from vibelite.models.load import load_for_training
from vibelite.models.policy import Policy
from vibelite.ranks.ranks import ONE_RANK, Ranks
from vibelite.recipe.stage_section import SFTStage
from vibelite.run_dir import existing_model
from vibelite.stages.context import StageContext
from vibelite.stages.engines import share_weights
from vibelite.training.checkpoint import TrainingStates, save_model
from vibelite.training.checkpoint_interval import SaveSchedule
from vibelite.training.optim import PolicyOptimizer


def run(stage: SFTStage, context: StageContext) -> None:
    """Trains from `start_from`; leaves `checkpoints/step-NNNNNN` every `checkpoint_every` steps and
    at the end.
    """
    meter, world = context.meter, context.world
    with meter.span("load"):
        training = context.recipe.training
        policy = load_for_training(
            context.model_of(stage.start_from), context.recipe, seed=context.seed("adapter")
        )
        policy = share_weights(policy, context)
        sequences, num_dropped = tokenize(context, stage, policy)
        optimizer = PolicyOptimizer(
            policy, stage.optimizer, num_steps=stage.num_steps, training=training, world=world
        )
        settings = context.recipe.checkpoint
        every = stage.checkpoint_every
        schedule = SaveSchedule(settings, every=every, num_steps=stage.num_steps)
        states = TrainingStates(
            context.stage_dir, policy, optimizer, settings=settings, schedule=schedule, world=world
        )
        start = states.load()
    context.recorder.record_work("load", num_sequences=len(sequences), num_dropped=num_dropped)

    for step in range(start, stage.num_steps):
        indices = indices_for_step(
            len(sequences), stage.sequences_per_step, step, seed=context.seed("order")
        )
        with meter.span("train"):
            loss, num_tokens = accumulate_gradient(
                policy,
                [sequences[index] for index in indices],
                stage,
                world=world,
                loss_scale=optimizer.loss_scale,
            )
        with meter.span("optimizer"):
            metrics = optimizer.step(step)
            optimizer.finish()
        meter.add_tokens(trained=num_tokens)
        if step + 1 in checkpoint_steps(stage):
            with meter.span("checkpoint"):
                path = checkpoint_path(context, step + 1)
                world.from_leader(partial(save_model, policy, path, settings=settings))
        context.recorder.record_step(
            step + 1, {"sft/loss": loss, "sft/tokens": num_tokens, **metrics}
        )
        reason = context.recorder.reason_to_stop()
        if reason or states.is_due(step + 1):
            with meter.span("checkpoint"):
                states.save(step + 1)
        if reason:
            context.recorder.record_work("checkpoint")
            raise reason
    context.recorder.record_work("checkpoint")
    if world.is_leader:
        finish(stage, context, num_sequences=len(sequences), num_dropped=num_dropped)


def finish(stage: SFTStage, context: StageContext, **counts: int) -> None:
    """Names the models that were kept, the last one as the stage's."""
    checkpoints = [checkpoint_path(context, step) for step in checkpoint_steps(stage)]
    context.stage_dir.finish(
        models={stage.name: existing_model(checkpoints[-1])},
        checkpoints=[existing_model(path).name for path in checkpoints],
        **counts,
    )


def checkpoint_steps(stage: SFTStage) -> list[int]:
    """After which steps a model is kept: every `checkpoint_every`, and the last."""
    every = stage.checkpoint_every
    return [*range(every, stage.num_steps, every), stage.num_steps]


def checkpoint_path(context: StageContext, step: int) -> Path:
    return context.stage_dir.checkpoints / f"step-{step:06d}"


def tokenize(
    context: StageContext, stage: SFTStage, policy: Policy
) -> tuple[list[TrainingSequence], int]:
    """The traces as training sequences, and how many were dropped because they are longer than
    `max_tokens`.
    """
    sequences = []
    traces = context.traces(stage.traces)
    for trace in traces:
        token_ids, mask = trace_ids(
            policy.tokenizer, trace.messages, context.recipe.data.system_prompt
        )
        if len(token_ids) <= stage.max_tokens:
            sequences.append(TrainingSequence(token_ids, mask))
    if not sequences:
        raise DataError(
            f"traces {stage.traces!r}: none of {len(traces)} fits into "
            f"max_tokens={stage.max_tokens}; raise it"
        )
    return sequences, len(traces) - len(sequences)


def accumulate_gradient(
    policy: Policy,
    sequences: list[TrainingSequence],
    stage: SFTStage,
    *,
    world: Ranks = ONE_RANK,
    loss_scale: float = 1.0,
) -> tuple[float, int]:
    """Adds this rank's share of the gradient of the mean negative log-prob per trained token (nats)
    of one step, times `loss_scale`; that mean, and the N of the share.

    The mean is over the whole step, whatever the split into ranks and micro-batches.
    """
    num_trained = sum(sum(sequence.completion_mask) for sequence in sequences)
    sequences = share_by_tokens(sequences, world.num_ranks)[world.rank]
    lengths = [len(sequence.token_ids) for sequence in sequences]
    micro_batches = split_by_tokens(lengths, stage.tokens_per_micro_batch)
    total = 0.0
    with policy.accumulating(len(micro_batches)):
        for micro_batch in micro_batches:
            weighted = [
                replace(sequences[index], token_weight=1 / num_trained) for index in micro_batch
            ]
            batch = pack(weighted, policy.device)
            # Scaled here, not the sum afterwards: the head's gradient is computed with the loss.
            weights = batch.token_weights[batch.completion_mask] * loss_scale
            loss = policy.token_loss(batch, partial(weighted_nll, weights)).loss
            loss.backward()
            total += loss.item() / loss_scale
    return sum(world.gather(total)), sum(lengths)


def weighted_nll(
    weights: torch.Tensor, logprobs: torch.Tensor, entropy: torch.Tensor, rows: slice
) -> torch.Tensor:
    """Negative log-probs [m] times their tokens' weights."""
    return -weights[rows] * logprobs
