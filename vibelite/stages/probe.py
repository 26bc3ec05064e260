"""Domain-aware diversity probing: the SFT checkpoint with the best Pass@K on each sub-domain is its
specialist.

VibeThinker report 3.3. Every checkpoint is scored on the same problems with the same random
numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from vibelite.algorithms.pass_at_k import pass_at_k
from vibelite.recipe.stage_section import ProbeStage
from vibelite.run_dir import read_json, write_json_atomic
from vibelite.stages.context import StageContext, subdomains_of
from vibelite.stages.evaluate import sample_model
from vibelite.types import Group, Problem


def run(stage: ProbeStage, context: StageContext) -> None:
    """Leaves probe.json (the table and the argmax) and names the specialists
    `<stage>-<sub-domain>`.
    """
    problems = context.problems(stage.problems)
    checkpoint_root = context.run.find_stage(stage.start_from).checkpoints
    scores = [
        score_checkpoint(stage, context, problems, checkpoint)
        for checkpoint in context.run.find_stage(stage.start_from).kept_checkpoints()
    ]
    subdomains = subdomains_of(problems)
    specialists = {subdomain: choose_specialist(scores, subdomain) for subdomain in subdomains}
    write_json_atomic(
        context.stage_dir.path / "probe.json",
        {
            "k": stage.k,
            "num_samples": stage.num_samples,
            "subdomains": subdomains,
            "checkpoints": scores,
            "specialists": specialists,
        },
    )
    context.stage_dir.finish(
        models={
            f"{stage.name}-{subdomain}": checkpoint_root / f"step-{step:06d}"
            for subdomain, step in specialists.items()
        }
    )


def score_checkpoint(
    stage: ProbeStage, context: StageContext, problems: Sequence[Problem], checkpoint: Path
) -> dict[str, Any]:
    """Pass@1 and Pass@k of one checkpoint per sub-domain; kept on disk, so that a resumed stage
    goes on from it.
    """
    path = context.stage_dir.path / "scores" / f"{checkpoint.name}.json"
    if not path.exists():
        groups = sample_model(
            context,
            checkpoint,
            problems,
            stage.sampling,
            stage.num_samples,
            seed=context.seed("samples"),
        )
        score = {
            "step": int(checkpoint.name.removeprefix("step-")),
            "path": checkpoint.name,
            "pass_at_1": mean_pass_at_k(groups, 1),
            "pass_at_k": mean_pass_at_k(groups, stage.k),
        }
        context.recorder.record_work("probe", checkpoint=checkpoint.name)
        write_json_atomic(path, score)
        context.recorder.stop_if_needed()
    return read_json(path)


def mean_pass_at_k(groups: Sequence[Group], k: int) -> dict[str, float]:
    """Pass@k per sub-domain, averaged over its problems."""
    return {
        subdomain: fmean(
            pass_at_k(len(group.verdicts), group.num_correct, k)
            for group in groups
            if group.problem.subdomain == subdomain
        )
        for subdomain in subdomains_of([group.problem for group in groups])
    }


def choose_specialist(scores: Sequence[dict[str, Any]], subdomain: str) -> int:
    """The step with the highest Pass@k on `subdomain`; a tie goes to the higher Pass@1, then to the
    later step.
    """
    best = max(
        scores,
        key=lambda score: (
            score["pass_at_k"][subdomain],
            score["pass_at_1"][subdomain],
            score["step"],
        ),
    )
    return best["step"]
