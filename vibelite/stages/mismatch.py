"""Is the sampler the policy that is trained? Measured before a stage's first step; every step
requires it again (`mgpo_metrics.require_agreement`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from vibelite.algorithms.policy_loss import mismatch_metrics
from vibelite.data.batching import TrainingSequence, pack
from vibelite.data.chat import prompt_ids
from vibelite.models.policy import Policy
from vibelite.recipe.stage_section import Sampling
from vibelite.rollout.engine import RolloutEngine, generate
from vibelite.stages.context import StageContext, sampling_settings
from vibelite.stages.mgpo_metrics import require_agreement
from vibelite.types import Problem

# What the probe samples: a few hundred tokens tell rounding from wrong weights.
PROBE_PROBLEMS = 4
PROBE_COMPLETIONS = 2
PROBE_TOKENS = 64
# Share of the limit above which another type is recommended.
NOTEWORTHY_SHARE = 0.1
# float16 rounds eight times finer than bfloat16.
FINER = {"bfloat16": "float16", "float16": "float32"}


def probe_mismatch(
    engine: RolloutEngine,
    policy: Policy,
    problems: Sequence[Problem],
    sampling: Sampling,
    context: StageContext,
) -> dict[str, float]:
    """The mismatch of a few completions under the starting weights, noted in the ledger with the
    dtype to use. EngineError where it is above the recipe's limit.
    """
    rollout = context.recipe.rollout
    settings = sampling_settings(sampling, PROBE_COMPLETIONS)
    settings = replace(settings, max_new_tokens=min(sampling.max_new_tokens, PROBE_TOKENS))
    prompts = [
        prompt_ids(policy.tokenizer, problem.messages, context.recipe.data, row=problem.id)
        for problem in problems[:PROBE_PROBLEMS]
    ]
    with context.meter.span("rollout"):
        groups = generate(engine, prompts, settings, seed=context.seed("mismatch"))
    sequences = [
        TrainingSequence(
            (*prompt, *completion.token_ids),
            len(prompt),
            sampler_logprobs=completion.sampler_logprobs,
        )
        for prompt, group in zip(prompts, groups, strict=True)
        for completion in group
    ]
    with context.meter.span("train"), torch.no_grad():
        batch = pack(sequences, policy.device)
        logprobs, _ = policy.logprobs(batch, temperature=sampling.temperature)
    assert batch.sampler_logprobs is not None, "completions carry the sampler's log-probs"
    metrics = mismatch_metrics(logprobs - batch.sampler_logprobs[batch.completion_mask])
    require_agreement(metrics, rollout.max_mismatch_kl)
    dtype = str(policy.head.weight.dtype).removeprefix("torch.")
    context.recorder.record_work(
        "mismatch",
        kl=f"{metrics['mismatch/k3']:.2g}",
        max_abs=f"{metrics['mismatch/max_abs']:.2g}",
        advice=advice(metrics["mismatch/k3"], dtype, rollout.max_mismatch_kl),
    )
    return metrics


def advice(kl: float, dtype: str, limit: float) -> str:
    """What to make of a measured KL per token with the trainer's weights in `dtype`."""
    if kl <= NOTEWORTHY_SHARE * limit:
        return f"{dtype} agrees"
    if dtype in FINER:
        return f"use training.dtype {FINER[dtype]}"
    return "rounding cannot explain it in float32; look for another cause"
