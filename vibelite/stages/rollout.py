"""Sampling and verifying groups, shared by the stages that need completions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from vibelite.data.chat import prompt_ids
from vibelite.errors import DataError
from vibelite.models.policy import Policy
from vibelite.recipe.stage_section import MGPOStage
from vibelite.rewards.verifier import verify
from vibelite.rollout.engine import RolloutEngine, SamplingSettings, generate
from vibelite.run_dir import read_json, write_json_atomic
from vibelite.stages.context import StageContext, sampling_settings
from vibelite.types import Group, Problem


def sample_groups(
    engine: RolloutEngine,
    policy: Policy,
    problems: Sequence[Problem],
    settings: SamplingSettings,
    *,
    context: StageContext,
    seed: int,
) -> list[Group]:
    """One group of verified completions per problem, in order. Counts tokens and time."""
    with context.meter.span("rollout"):
        prompts = [
            prompt_ids(policy.tokenizer, problem.messages, context.recipe.data.system_prompt)
            for problem in problems
        ]
        sampled = generate(engine, prompts, settings, seed=seed)
    context.meter.add_tokens(
        prompt=sum(map(len, prompts)),
        generated=sum(
            len(completion.token_ids) for completions in sampled for completion in completions
        ),
    )
    with context.meter.span("verify"):
        return [
            Group(
                problem,
                tuple(prompt),
                tuple(completions),
                tuple(verify(problem, c) for c in completions),
            )
            for problem, prompt, completions in zip(problems, prompts, sampled, strict=True)
        ]


def select_learnable(
    problems: Sequence[Problem],
    engine: RolloutEngine,
    policy: Policy,
    stage: MGPOStage,
    context: StageContext,
) -> list[Problem]:
    """The problems whose pass rate under the starting weights is neither 0 nor 1 (VibeThinker-3B
    report 2.2).

    Samples `prefilter_samples` completions of the first `prefilter_problems` problems (0 = all);
    what was found is kept in prefilter.json, so that a resumed stage does not sample again.
    `prefilter_samples` 0 keeps every problem.
    """
    if not stage.prefilter_samples:
        return list(problems)
    candidates = list(problems[: stage.prefilter_problems or None])
    path = context.stage_dir.path / "prefilter.json"
    fingerprint = hashlib.sha256(
        "\n".join(problem.id for problem in candidates).encode()
    ).hexdigest()
    if path.exists() and read_json(path)["fingerprint"] == fingerprint:
        pass_rates = read_json(path)["pass_rates"]
    else:
        settings = sampling_settings(stage.sampling, stage.prefilter_samples)
        groups = sample_groups(
            engine, policy, candidates, settings, context=context, seed=context.seed("prefilter")
        )
        pass_rates = {group.problem.id: group.pass_rate for group in groups}
        write_json_atomic(path, {"fingerprint": fingerprint, "pass_rates": pass_rates})
        context.recorder.record_work("prefilter", num_problems=len(candidates))
    learnable = [problem for problem in candidates if 0 < pass_rates[problem.id] < 1]
    if not learnable:
        raise DataError(
            f"stage {stage.name!r}: none of {len(candidates)} problems has a pass rate "
            f"between 0 and 1 in {stage.prefilter_samples} samples; use easier or harder problems, "
            "or prefilter_samples: 0"
        )
    return learnable


def sample_rows(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """One row of samples.jsonl for every completion, group by group."""
    return [
        {
            "problem_id": group.problem.id,
            "subdomain": group.problem.subdomain,
            "prompt": group.problem.messages[-1]["content"],
            "completion": completion.text,
            "reward": verdict.reward,
            "correct": verdict.correct,
            "detail": verdict.detail,
            "num_tokens": len(completion.token_ids),
            "finish_reason": completion.finish_reason,
        }
        for group in groups
        for completion, verdict in zip(group.completions, group.verdicts, strict=True)
    ]
