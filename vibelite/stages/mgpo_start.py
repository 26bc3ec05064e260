"""Before MGPO's first step: which problems can teach something, and whether the sampler is the
policy that is trained, which every step then requires again (`mgpo_metrics.require_agreement`).
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import replace

from vibelite.algorithms.policy_loss import mismatch_metrics
from vibelite.data.batching import TrainingSequence, pack
from vibelite.data.chat import prompt_ids
from vibelite.errors import DataError
from vibelite.models.policy import Policy
from vibelite.recipe.stage_section import MGPOStage
from vibelite.rollout.engine import RolloutEngine, generate
from vibelite.run_dir import read_json, write_json_atomic
from vibelite.stages.context import StageContext, sampling_settings
from vibelite.stages.mgpo_metrics import require_agreement
from vibelite.stages.rollout import sample_groups
from vibelite.types import Problem

# What is sampled to compare log-probs: a few hundred tokens tell rounding from wrong weights.
PROBE_PROBLEMS = 4
PROBE_COMPLETIONS = 2
PROBE_TOKENS = 64


def select_learnable(
    problems: Sequence[Problem],
    engine: RolloutEngine,
    policy: Policy,
    stage: MGPOStage,
    context: StageContext,
) -> list[Problem]:
    """The problems whose completions under the starting weights earn different rewards: where these
    are 0 or 1, the pass rate is neither (VibeThinker-3B report 2.2). Sampled are
    `prefilter_samples` completions of `prefilter_problems` by the run's seed (0 = all).

    What was found is kept in prefilter.json, so that a resumed stage does not sample again.
    `prefilter_samples` 0 keeps every problem.
    """
    if not stage.prefilter_samples:
        return list(problems)
    candidates = list(problems)
    if 0 < stage.prefilter_problems < len(problems):
        drawing = random.Random(context.seed("prefilter_problems"))
        candidates = drawing.sample(candidates, stage.prefilter_problems)
    path = context.stage_dir.path / "prefilter.json"
    ids = "\n".join(problem.id for problem in candidates)
    fingerprint = hashlib.sha256(ids.encode()).hexdigest()
    known = context.world.from_leader(lambda: read_json(path) if path.exists() else {})
    learnable = known.get("learnable") if known.get("fingerprint") == fingerprint else None
    if learnable is None:
        settings = sampling_settings(stage.sampling, stage.prefilter_samples)
        groups = sample_groups(
            engine, policy, candidates, settings, context=context, seed=context.seed("prefilter")
        )
        learnable = [group.problem.id for group in groups if group.has_signal]
        pass_rates = {group.problem.id: group.pass_rate for group in groups}
        if context.world.is_leader:
            found = {"pass_rates": pass_rates, "learnable": learnable}
            write_json_atomic(path, {"fingerprint": fingerprint, **found})
        context.recorder.record_work("prefilter", num_problems=len(candidates))
    if not learnable:
        raise DataError(
            f"stage {stage.name!r}: none of {len(candidates)} problems has a pass rate "
            f"between 0 and 1 in {stage.prefilter_samples} samples; use easier or harder problems, "
            "or prefilter_samples: 0"
        )
    return [problem for problem in candidates if problem.id in set(learnable)]


def probe_mismatch(
    engine: RolloutEngine,
    policy: Policy,
    problems: Sequence[Problem],
    stage: MGPOStage,
    context: StageContext,
) -> None:
    """Notes the mismatch of a few completions in the ledger. EngineError where it is above the
    recipe's limit.
    """
    recipe = context.recipe
    settings = sampling_settings(stage.sampling, PROBE_COMPLETIONS)
    settings = replace(settings, max_new_tokens=min(settings.max_new_tokens, PROBE_TOKENS))
    prompts = [
        prompt_ids(policy.tokenizer, problem.messages, recipe.data, row=problem.id)
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
    with context.meter.span("train"):
        batch = pack(sequences, policy.device)
        logprobs, _ = policy.logprobs(batch, temperature=settings.temperature)
    assert batch.sampler_logprobs is not None, "completions carry the sampler's log-probs"
    metrics = mismatch_metrics(logprobs - batch.sampler_logprobs[batch.completion_mask])
    require_agreement(metrics, recipe)
    kl, largest = metrics["mismatch/k3"], metrics["mismatch/max_abs"]
    context.recorder.record_work("mismatch", kl=f"{kl:.2g}", max_abs=f"{largest:.2g}")
