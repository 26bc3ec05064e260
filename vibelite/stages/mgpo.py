"""MGPO: sample groups, verify, weight their advantages by maximum entropy, one clipped
policy-gradient step. Reads top to bottom: `mgpo_step` is the method.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, compress
from statistics import fmean

import torch

from vibelite.algorithms.advantages import LengthShaping, mgpo_advantages, shape_rewards
from vibelite.algorithms.pass_rates import no_counts
from vibelite.algorithms.policy_loss import (
    LossInputs,
    LossSettings,
    policy_diagnostics,
    policy_loss,
    sequence_ratios,
    token_weights,
)
from vibelite.data.batching import (
    TrainingSequence,
    pack,
    share_by_tokens,
    split_by_tokens,
)
from vibelite.models.load import load_for_training, reference_of
from vibelite.models.policy import Policy
from vibelite.ranks.ranks import ONE_RANK, Ranks
from vibelite.recipe.stage_section import MGPOStage
from vibelite.rollout.engine import RolloutEngine
from vibelite.stages.context import StageContext, sampling_settings
from vibelite.stages.engines import build_engine, own_engine, share_engine, share_weights
from vibelite.stages.mgpo_groups import ProblemPool, sample_step
from vibelite.stages.mgpo_metrics import (
    require_agreement,
    rollout_metrics,
    shaping_metrics,
    train_metrics,
)
from vibelite.stages.mgpo_start import probe_mismatch, select_learnable
from vibelite.stages.rollout import sample_groups, sample_rows
from vibelite.stages.training_loop import TrainingLoop
from vibelite.telemetry.spending import completion_counts
from vibelite.training.optim import PolicyOptimizer
from vibelite.types import Group, Problem, TokenBatch


@dataclass(frozen=True, slots=True)
class Trainer:
    """What one step needs."""

    stage: MGPOStage
    context: StageContext
    policy: Policy
    reference: Policy | None
    engine: RolloutEngine
    optimizer: PolicyOptimizer
    world: Ranks = ONE_RANK
    counts: torch.Tensor | None = None
    """What groups have said of each problem [P, 2] (`pass_rates`); None = no memory."""

    @property
    def loss_settings(self) -> LossSettings:
        stage = self.stage
        return LossSettings(
            clip_low=stage.clip_low,
            clip_high=stage.clip_high,
            entropy_coef=stage.entropy_coef,
            kl_coef=stage.kl_coef,
            importance_cap=stage.importance_cap,
            ratio=stage.ratio,
        )

    @property
    def length_shaping(self) -> LengthShaping:
        stage = self.stage
        return LengthShaping(stage.long2short, stage.overlong_margin, stage.sampling.max_new_tokens)


def run(stage: MGPOStage, context: StageContext) -> None:
    """Trains from `start_from` for `num_steps` rollouts; the final model is
    `checkpoints/step-NNNNNN`.
    """
    with ExitStack() as engines:  # closed after an error too
        with context.meter.span("load"):
            trainer = open_trainer(stage, context, engines)
            problems = context.problems(stage.problems)
        engine, policy = trainer.engine, trainer.policy
        context.recorder.record_work("load", num_problems=len(problems))
        # Before a state is resumed: problems are chosen under the stage's starting weights.
        problems = select_learnable(problems, engine, policy, stage, context)
        extra = {}
        if stage.memory.decay:
            extra["problem_counts"] = no_counts(len(problems))
            trainer = replace(trainer, counts=extra["problem_counts"])
        loop = TrainingLoop(
            stage, context, policy, trainer.optimizer, keep_every=stage.keep_every, extra=extra
        )
        engine.load_weights(loop.resume())
        probe_mismatch(own_engine(engine), policy, problems, stage, context)
        loop.run(partial(mgpo_step, trainer, problems))
    if context.world.is_leader:
        *others, last = loop.kept_models()
        models = {f"{stage.name}-{path.name}": path for path in others} | {stage.name: last}
        context.stage_dir.finish(models=models, num_problems=len(problems))


def open_trainer(stage: MGPOStage, context: StageContext, engines: ExitStack) -> Trainer:
    """Loads what one step needs; `engines` closes the engine that this opens."""
    recipe, start_from = context.recipe, context.model_of(stage.start_from)
    policy = load_for_training(start_from, recipe, seed=context.seed("adapter"))
    policy = share_weights(policy, context)
    reference = reference_of(policy, start_from, recipe) if stage.kl_coef else None
    with context.meter.span("engine"):
        engine = build_engine(recipe, policy, stage.sampling, stage.optimizer)
        engine = share_engine(engine, stage.sampling, context)
    engines.callback(engine.close)
    optimizer = PolicyOptimizer(
        policy,
        stage.optimizer,
        num_steps=stage.num_steps * stage.updates_per_rollout,
        training=recipe.training,
        world=context.world,
    )
    return Trainer(stage, context, policy, reference, engine, optimizer, context.world)


def mgpo_step(trainer: Trainer, problems: Sequence[Problem], step: int) -> None:
    """One rollout and its updates; `step` is 0-based."""
    stage, context, meter = trainer.stage, trainer.context, trainer.context.meter
    pool = ProblemPool(problems, trainer.counts, stage, context)
    with meter.span("sync"):
        trainer.engine.wake()
    places, groups, num_rounds = sample_step(
        pool,
        step,
        partial(sample_round, trainer, step),
        lambda group: any(weighted_advantages(trainer, group)[0]),
    )
    with meter.span("sync"):
        trainer.engine.sleep()

    rewards = [shaped_rewards(trainer, group) for group in groups]
    weighted = [weighted_advantages(trainer, group) for group in groups]
    advantages = [values for values, _ in weighted]
    kept = [any(values) or not stage.refill.max_rounds for values in advantages]
    metrics = rollout_metrics(groups, [weight for _, weight in weighted])
    metrics |= shaping_metrics(trainer.length_shaping, groups, rewards)
    metrics["groups/signal"] = fmean(any(values) for values in advantages)
    if stage.refill.max_rounds:
        metrics |= {
            "refill/rounds": num_rounds,
            "refill/sampled": len(groups),
            "refill/kept": sum(kept),
        }
    batches = training_batches(
        trainer, list(compress(groups, kept)), list(compress(advantages, kept))
    )
    (has_gradient,) = trainer.world.any_of([bool(batches)])
    for update in range(stage.updates_per_rollout if has_gradient else 0):
        with meter.span("train"):
            if update == 0:
                frozen = [frozen_logprobs(trainer, batch) for batch in batches]
            with trainer.policy.accumulating(len(batches)):
                parts = [
                    accumulate_gradient(trainer, batch, *known)
                    for batch, known in zip(batches, frozen, strict=True)
                ]
            metrics |= train_metrics(trainer.world.joined(parts))
        require_agreement(metrics, context.recipe)
        with meter.span("optimizer"):
            metrics |= trainer.optimizer.step(step * stage.updates_per_rollout + update)
            trainer.optimizer.finish()
    with meter.span("sync"):
        trainer.engine.load_weights(step + 1)
    metrics |= trainer.engine.metrics()
    metrics |= pool.remember(places, groups)

    meter.add_counts(completion_counts(groups))
    meter.add_tokens(trained=sum(batch.num_tokens for batch in batches))
    flat = chain.from_iterable(advantages)
    rows = [row | {"advantage": a} for row, a in zip(sample_rows(groups), flat, strict=True)]
    context.recorder.record_samples(step + 1, rows)
    context.recorder.record_step(step + 1, metrics)


def sample_round(
    trainer: Trainer, step: int, problems: Sequence[Problem], number: int
) -> list[Group]:
    """The groups of a step's first problems, number 0, or of a round of refill."""
    stage, context = trainer.stage, trainer.context
    seed = context.seed("rollout", step, *([number] if number else []))
    settings = sampling_settings(stage.sampling, stage.group_size)
    return sample_groups(
        trainer.engine, trainer.policy, problems, settings, context=context, seed=seed
    )


def shaped_rewards(trainer: Trainer, group: Group) -> list[float]:
    """Rewards [G] from which the group's advantages are computed."""
    return shape_rewards(group.rewards, group.lengths, trainer.length_shaping)


def weighted_advantages(trainer: Trainer, group: Group) -> tuple[list[float], float]:
    """Advantages [G] of a group, all 0 where it has no signal, and its MaxEnt weight."""
    stage, rewards = trainer.stage, shaped_rewards(trainer, group)
    return mgpo_advantages(rewards, group.mean_reward, stage.maxent_lambda, stage.advantage)


def training_batches(
    trainer: Trainer, groups: Sequence[Group], advantages: Sequence[Sequence[float]]
) -> list[TokenBatch]:
    """Packed micro-batches of this rank's share of the completions that have a gradient: of groups
    with equal rewards only where an entropy bonus or a KL penalty acts on every token. All count in
    the denominator.
    """
    stage, world = trainer.stage, trainer.world
    lengths = torch.tensor([length for group in groups for length in group.lengths])
    weights = token_weights(lengths, stage.aggregation, stage.sampling.max_new_tokens).tolist()
    completions = [(group, completion) for group in groups for completion in group.completions]
    sequences = [
        TrainingSequence(
            token_ids=group.prompt_ids + completion.token_ids,
            num_prompt_tokens=len(group.prompt_ids),
            token_weight=weight,
            advantage=advantage,
            sampler_logprobs=completion.sampler_logprobs,
        )
        for (group, completion), weight, advantage in zip(
            completions, weights, chain.from_iterable(advantages), strict=True
        )
        if advantage or stage.entropy_coef or stage.kl_coef
    ]
    mine = share_by_tokens(sequences, world.num_ranks)[world.rank]
    micro_batches = split_by_tokens([len(s.token_ids) for s in mine], stage.tokens_per_micro_batch)
    return [
        pack([mine[index] for index in indices], trainer.policy.device) for indices in micro_batches
    ]


def frozen_logprobs(
    trainer: Trainer, batch: TokenBatch
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Log-probs [M] under the policy before the rollout's updates and under the reference; None
    where not needed.
    """
    temperature = trainer.stage.sampling.temperature
    old, ref = None, None
    if trainer.stage.updates_per_rollout > 1:
        old, _ = trainer.policy.logprobs(batch, temperature=temperature)
    if trainer.reference is not None:
        ref, _ = trainer.reference.logprobs(batch, temperature=temperature)
    return old, ref


def accumulate_gradient(
    trainer: Trainer,
    batch: TokenBatch,
    old_logprobs: torch.Tensor | None,
    ref_logprobs: torch.Tensor | None,
) -> dict[str, torch.Tensor]:
    """Adds one micro-batch's share of the step's gradient; per-token diagnostics [M]."""
    mask, temperature = batch.completion_mask, trainer.stage.sampling.temperature
    assert batch.sampler_logprobs is not None, "completions carry the sampler's log-probs"
    of_completions = None
    if trainer.stage.ratio == "sequence" and old_logprobs is not None:
        now, _ = trainer.policy.logprobs(batch, temperature=temperature)
        of_completions = sequence_ratios(now - old_logprobs, batch.trained_lengths)
    inputs = LossInputs(
        advantages=batch.advantages[mask],
        token_weights=batch.token_weights[mask],
        old_logprobs=old_logprobs,
        sampler_logprobs=batch.sampler_logprobs[mask],
        ref_logprobs=ref_logprobs,
        sequence_ratios=of_completions,
    )
    settings, loss_scale = trainer.loss_settings, trainer.optimizer.loss_scale
    # Scaled here, not the sum afterwards: the head's gradient is computed with the loss.
    loss, logprobs, entropy = trainer.policy.token_loss(
        batch,
        lambda logprobs, entropy, rows: (
            policy_loss(logprobs, entropy, inputs.at(rows), settings) * loss_scale
        ),
        temperature=temperature,
    )
    loss.backward()
    diagnostics = policy_diagnostics(logprobs, inputs, settings)
    return diagnostics | {"loss": loss.detach() / loss_scale, "entropy": entropy}
