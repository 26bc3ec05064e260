"""Sampling and verifying groups, shared by the stages that need completions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import Any

from vibelite.errors import DataError
from vibelite.models.policy import Policy
from vibelite.recipe.stage_section import MGPOStage
from vibelite.rewards.choice import shuffled
from vibelite.rewards.failures import require_reliable
from vibelite.rollout.engine import RolloutEngine, SamplingSettings
from vibelite.run_dir import read_json, write_json_atomic
from vibelite.stages.context import StageContext, sampling_settings
from vibelite.stages.engines import helper_of
from vibelite.stages.sampling import Drawn, Wanted, draw, verified_row
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
    """One group of verified completions per problem, in order. Counts tokens and time.

    Completions are verified while others are still sampled; what the span "verify" shows is the
    time that was spent on nothing else. The options of a multiple choice are shuffled, for all
    completions of a group alike. Raises VibeLiteError where the verifier fails more often than the
    recipe allows, and BudgetReached where the rest of the budget would not pay for a checkpoint.

    Called by all ranks, or by the leader where it is by itself.
    """
    return context.world.from_leader(
        partial(_sample_groups, engine, policy, problems, settings, context=context, seed=seed),
        meanwhile=helper_of(engine, context),
    )


def _sample_groups(
    engine: RolloutEngine,
    policy: Policy,
    problems: Sequence[Problem],
    settings: SamplingSettings,
    *,
    context: StageContext,
    seed: int,
) -> list[Group]:
    """`sample_groups` on the leader, which verifies what all ranks sample."""
    problems = [shuffled(problem, seed) for problem in problems]
    samples: list[dict[int, Drawn]] = [{} for _ in problems]
    with closing(draw(Wanted(problems, settings, seed), engine, policy, context)) as drawing:
        for drawn in drawing:
            samples[drawn.place][drawn.sample] = drawn
            context.recorder.check_deadline()
    with context.meter.span("verify"):
        groups = []
        for problem, of_problem in zip(problems, samples, strict=True):
            ordered = [of_problem[number] for number in range(settings.num_completions)]
            completions = tuple(drawn.completion for drawn in ordered)
            verdicts = tuple(drawn.verdict.result() for drawn in ordered)
            groups.append(Group(problem, ordered[0].prompt_ids, completions, verdicts))
    require_reliable(
        (verdict for group in groups for verdict in group.verdicts),
        context.recipe.verification.max_failure_rate,
    )
    return groups


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
    known = context.world.from_leader(lambda: read_json(path) if path.exists() else {})
    pass_rates = known.get("pass_rates") if known.get("fingerprint") == fingerprint else None
    if pass_rates is None:
        settings = sampling_settings(stage.sampling, stage.prefilter_samples)
        groups = sample_groups(
            engine, policy, candidates, settings, context=context, seed=context.seed("prefilter")
        )
        pass_rates = {group.problem.id: group.pass_rate for group in groups}
        if context.world.is_leader:
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
        verified_row(group.problem, completion, verdict)
        for group in groups
        for completion, verdict in zip(group.completions, group.verdicts, strict=True)
    ]
