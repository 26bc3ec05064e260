"""Domain-aware diversity probing: the SFT checkpoint with the best Pass@K on each sub-domain is its
specialist.

VibeThinker report 3.3. Every checkpoint is scored on the same problems with the same random
numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from vibelite.algorithms.pass_at_k import pass_at_k
from vibelite.recipe.stage_section import ProbeStage
from vibelite.rewards.choice import shuffled
from vibelite.run_dir import write_json_atomic
from vibelite.stages.context import StageContext, subdomains_of
from vibelite.stages.sampling import SampleRequest, collect_samples, joined_parts, part_path
from vibelite.types import Problem


def run(stage: ProbeStage, context: StageContext) -> None:
    """Leaves probe.json (the table and the argmax) and every sample in samples.jsonl, and names the
    specialists `<stage>-<sub-domain>`.
    """
    problems, seed = probing_problems(stage, context), context.seed("samples")
    checkpoints = context.run.find_stage(stage.start_from).kept_checkpoints()
    scores = []
    for path in checkpoints:
        samples = collect_samples(
            probe_request(path, problems, stage, seed),
            part_path(context, path.name),
            context,
            {"checkpoint": path.name},
        )
        context.recorder.record_work("probe", checkpoint=path.name)
        context.recorder.stop_if_needed()
        step = int(path.name.removeprefix("step-"))
        scores.append(
            {
                "step": step,
                "path": path.name,
                "pass_at_1": mean_pass_at_k(samples, 1),
                "pass_at_k": mean_pass_at_k(samples, stage.k),
            }
        )
    subdomains = subdomains_of(problems)
    specialists = {subdomain: choose_specialist(scores, subdomain) for subdomain in subdomains}
    table = {"subdomains": subdomains, "checkpoints": scores, "specialists": specialists}
    counts = {"k": stage.k, "num_samples": stage.num_samples}
    write_json_atomic(context.stage_dir.path / "probe.json", counts | table)
    by_step = {score["step"]: path for score, path in zip(scores, checkpoints, strict=True)}
    names = {f"{stage.name}-{subdomain}": by_step[step] for subdomain, step in specialists.items()}
    with joined_parts(context):
        context.stage_dir.finish(models=names)


def probing_problems(stage: ProbeStage, context: StageContext) -> list[Problem]:
    """The problems of every probing set; where these are several, an id says of which."""
    if isinstance(stage.problems, str):
        return context.problems(stage.problems)
    return [
        replace(problem, id=f"{name}/{problem.id}")
        for name in stage.problems
        for problem in context.problems(name)
    ]


def probe_request(
    model: Path, problems: Sequence[Problem], stage: ProbeStage, seed: int
) -> SampleRequest:
    """What every model is asked, with the same random numbers. The options of a multiple choice
    stand in one order for all samples of a problem.
    """
    shown = [shuffled(problem, seed) for problem in problems]
    return SampleRequest(model, shown, stage.sampling, stage.num_samples, seed)


def mean_pass_at_k(samples: Sequence[Mapping[str, Any]], k: int) -> dict[str, float]:
    """Pass@k per sub-domain, averaged over its problems, from the rows of their samples."""
    outcomes: dict[str, dict[str, list[bool]]] = {}
    for row in samples:
        of_problems = outcomes.setdefault(row["subdomain"], {})
        of_problems.setdefault(row["problem_id"], []).append(row["correct"] is True)
    return {
        subdomain: fmean(pass_at_k(len(each), sum(each), k) for each in of_problems.values())
        for subdomain, of_problems in outcomes.items()
    }


def choose_specialist(scores: Sequence[dict[str, Any]], subdomain: str) -> int:
    """The step with the highest Pass@k on `subdomain`; a tie goes to the higher Pass@1, then to the
    later step.
    """

    def rank(score: dict[str, Any]) -> tuple[float, float, int]:
        return score["pass_at_k"][subdomain], score["pass_at_1"][subdomain], score["step"]

    return max(scores, key=rank)["step"]
