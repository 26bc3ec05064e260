"""Supervised fine-tuning on packed traces, loss on completions only, with the checkpoints that
`probe` chooses from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from vibelite.data.batching import (
    TrainingSequence,
    indices_for_step,
    pack,
    share_by_tokens,
    split_by_tokens,
    tokenize_traces,
)
from vibelite.errors import DataError
from vibelite.models.load import load_for_training
from vibelite.models.policy import Policy
from vibelite.ranks.ranks import ONE_RANK, Ranks
from vibelite.recipe.stage_section import SFTStage
from vibelite.stages.context import StageContext
from vibelite.stages.engines import share_weights
from vibelite.stages.training_loop import TrainingLoop
from vibelite.training.optim import PolicyOptimizer

# Share of the traces whose loss is told as a warning.
MOST_DROPPED = 0.5


@dataclass(frozen=True, slots=True)
class Trainer:
    """What one step needs."""

    stage: SFTStage
    context: StageContext
    policy: Policy
    optimizer: PolicyOptimizer


def run(stage: SFTStage, context: StageContext) -> None:
    """Trains from `start_from`; leaves `checkpoints/step-NNNNNN` every `checkpoint_every` steps and
    at the end.
    """
    recipe = context.recipe
    with context.meter.span("load"):
        start_from = context.model_of(stage.start_from)
        policy = load_for_training(start_from, recipe, seed=context.seed("adapter"))
        policy = share_weights(policy, context)
        traces = context.traces(stage.traces)
        sequences = tokenize_traces(
            policy.tokenizer,
            traces,
            chat=recipe.data,
            max_tokens=stage.max_tokens,
        )
        if not sequences:
            raise DataError(
                f"traces {stage.traces!r}: none of {len(traces)} fits into "
                f"max_tokens={stage.max_tokens}; raise it"
            )
        optimizer = PolicyOptimizer(
            policy,
            stage.optimizer,
            num_steps=stage.num_steps,
            training=recipe.training,
            world=context.world,
        )
        loop = TrainingLoop(stage, context, policy, optimizer, keep_every=stage.checkpoint_every)
        loop.resume()
    counts = {"num_sequences": len(sequences), "num_dropped": len(traces) - len(sequences)}
    context.recorder.record_work("load", **counts)
    if counts["num_dropped"] >= MOST_DROPPED * len(traces):
        context.recorder.warn(
            "traces dropped",
            f"{counts['num_dropped']} of {len(traces)} traces are longer than max_tokens="
            f"{stage.max_tokens} and were left out: raise it, or use shorter traces",
        )
    loop.run(partial(sft_step, Trainer(stage, context, policy, optimizer), sequences))
    if context.world.is_leader:
        models = loop.kept_models()
        names = [path.name for path in models]
        context.stage_dir.finish(models={stage.name: models[-1]}, checkpoints=names, **counts)


def sft_step(trainer: Trainer, sequences: Sequence[TrainingSequence], step: int) -> None:
    """One update on the step's share of the sequences; `step` is 0-based."""
    stage, context, optimizer = trainer.stage, trainer.context, trainer.optimizer
    indices = indices_for_step(
        len(sequences), stage.sequences_per_step, step, seed=context.seed("order")
    )
    with context.meter.span("train"):
        loss, num_tokens = accumulate_gradient(
            trainer.policy,
            [sequences[index] for index in indices],
            stage,
            world=context.world,
            loss_scale=optimizer.loss_scale,
        )
    with context.meter.span("optimizer"):
        metrics = optimizer.step(step)
        optimizer.finish()
    context.meter.add_tokens(trained=num_tokens)
    context.recorder.record_step(step + 1, {"sft/loss": loss, "sft/tokens": num_tokens, **metrics})


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
    num_trained = sum(sequence.num_trained for sequence in sequences)
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
