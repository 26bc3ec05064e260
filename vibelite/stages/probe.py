"""Domain-aware diversity probing: the SFT checkpoint with the best Pass@K on each sub-domain is its
specialist.

VibeThinker report 3.3. Every checkpoint is scored on the same problems with the same random
numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from vibelite.algorithms.pass_at_k import pass_at_k
from vibelite.recipe.stage_section import ProbeStage
from vibelite.rewards.choice import shuffled
from vibelite.run_dir import read_json, write_json_atomic
from vibelite.stages.context import StageContext, subdomains_of
from vibelite.stages.sampling import SampleRequest, collect_samples, join_files
from vibelite.types import Problem


def run(stage: ProbeStage, context: StageContext) -> None:
    """Leaves probe.json (the table and the argmax) and every sample in samples.jsonl, and names the
    specialists `<stage>-<sub-domain>`.
    """
    problems = context.problems(stage.problems)
    checkpoint_root = context.run.find_stage(stage.start_from).checkpoints
    seed = context.seed("samples")
    scores = [
        score_checkpoint(probe_request(checkpoint, problems, stage, seed), stage.k, context)
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
    parts = sorted(score_path(context, "step-*").parent.glob("*.jsonl"))
    join_files(parts, context.stage_dir.samples_path)
    context.stage_dir.finish(
        models={
            f"{stage.name}-{subdomain}": checkpoint_root / f"step-{step:06d}"
            for subdomain, step in specialists.items()
        }
    )
    for part in parts:
        part.unlink()


def probe_request(
    model: Path, problems: Sequence[Problem], stage: ProbeStage, seed: int
) -> SampleRequest:
    """What every model is asked, with the same random numbers. The options of a multiple choice
    stand in one order for all samples of a problem.
    """
    shown = [shuffled(problem, seed) for problem in problems]
    return SampleRequest(model, shown, stage.sampling, stage.num_samples, seed)


def score_path(context: StageContext, checkpoint: str) -> Path:
    """The scores of a checkpoint; its samples lie next to them until the stage is finished."""
    return context.stage_dir.path / "scores" / f"{checkpoint}.json"


def score_checkpoint(request: SampleRequest, k: int, context: StageContext) -> dict[str, Any]:
    """Pass@1 and Pass@k of one checkpoint per sub-domain. Scores and samples are kept on disk, so
    that a resumed stage draws only what is missing.
    """
    checkpoint = request.model.name
    path = score_path(context, checkpoint)
    if not path.exists():
        labels = {"checkpoint": checkpoint}
        samples = collect_samples(request, path.with_suffix(".jsonl"), context, labels)
        score = {
            "step": int(checkpoint.removeprefix("step-")),
            "path": checkpoint,
            "pass_at_1": mean_pass_at_k(samples, 1),
            "pass_at_k": mean_pass_at_k(samples, k),
        }
        context.recorder.record_work("probe", checkpoint=checkpoint)
        write_json_atomic(path, score)
        context.recorder.stop_if_needed()
    return read_json(path)


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
    best = max(
        scores,
        key=lambda score: (
            score["pass_at_k"][subdomain],
            score["pass_at_1"][subdomain],
            score["step"],
        ),
    )
    return best["step"]
