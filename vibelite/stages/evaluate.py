"""Pass@1 and Pass@k of models on problem sets, with confidence intervals over problems."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from vibelite.algorithms.pass_at_k import pass_at_k
from vibelite.algorithms.statistics import mean_with_interval
from vibelite.models.load import load_policy
from vibelite.recipe.stage_section import BASE, EvaluateStage, Sampling
from vibelite.run_dir import read_json, read_jsonl, write_json_atomic, write_jsonl_atomic
from vibelite.stages.context import StageContext, build_engine, sampling_settings, subdomains_of
from vibelite.stages.rollout import sample_groups, sample_rows
from vibelite.telemetry.recorder import stage_cost
from vibelite.types import Group, Problem


def run(stage: EvaluateStage, context: StageContext) -> None:
    """Leaves results.json (one row per model and benchmark) and every sample in samples.jsonl."""
    rows = []
    for producer in stage.models or stages_before(stage, context):
        seconds, usd = stage_cost(context.run.ledger_path, producer)
        for name, path in context.models_of(producer).items():
            for benchmark in stage.benchmarks:
                result = evaluate_once(stage, context, path, benchmark)
                rows.append(
                    {
                        "stage": name,
                        "benchmark": benchmark,
                        **result,
                        "usd": usd,
                        "seconds": seconds,
                    }
                )
    write_json_atomic(context.stage_dir.path / "results.json", rows)
    parts = sorted((context.stage_dir.path / "models").glob("*.jsonl"))
    write_jsonl_atomic(
        context.stage_dir.samples_path, (row for part in parts for row in read_jsonl(part))
    )
    for part in parts:
        part.unlink()
    context.stage_dir.finish(models={})


def stages_before(stage: EvaluateStage, context: StageContext) -> list[str]:
    """The base and every earlier stage that makes a model."""
    names = [BASE]
    for other in context.recipe.stages:
        if other.name == stage.name:
            break
        if other.kind in ("sft", "probe", "fuse", "mgpo"):
            names.append(other.name)
    return names


def evaluate_once(
    stage: EvaluateStage, context: StageContext, model: Path, benchmark: str
) -> dict[str, Any]:
    """The result of one model directory on one benchmark, kept on disk: a model with two names is
    sampled once.

    The seed depends on the benchmark alone, so that models are compared on the same random numbers.
    """
    key = f"{benchmark}--{'-'.join(model.relative_to(context.run.path).parts)}"
    path = context.stage_dir.path / "models" / f"{key}.json"
    if not path.exists():
        problems = context.problems(benchmark)
        groups = sample_model(
            context,
            model,
            problems,
            stage.sampling,
            stage.num_samples,
            seed=context.seed(benchmark),
        )
        rows = ({"key": key, **row} for row in sample_rows(groups))
        write_jsonl_atomic(path.with_suffix(".jsonl"), rows)
        result = summarise(
            groups, stage.k, num_bootstrap=stage.num_bootstrap, seed=context.seed("bootstrap")
        )
        context.recorder.record_work("evaluate", model=key, benchmark=benchmark)
        write_json_atomic(path, result)
    return read_json(path)


def sample_model(
    context: StageContext,
    model: Path,
    problems: Sequence[Problem],
    sampling: Sampling,
    num_samples: int,
    *,
    seed: int,
) -> list[Group]:
    """`num_samples` verified completions of every problem by the model in directory `model`."""
    with context.meter.span("load"):
        policy = load_policy(model)
    engine = build_engine(context.recipe, policy, sampling)
    settings = sampling_settings(sampling, num_samples)
    groups = sample_groups(engine, policy, problems, settings, context=context, seed=seed)
    engine.close()
    return groups


def summarise(
    groups: Sequence[Group], ks: Sequence[int], *, num_bootstrap: int, seed: int
) -> dict[str, Any]:
    """Pass@1 and Pass@k over problems with 95% bootstrap intervals, per sub-domain too, truncation
    and length.
    """
    num_samples = len(groups[0].completions)
    completions = [completion for group in groups for completion in group.completions]

    def estimate(chosen: Sequence[Group], k: int) -> tuple[float, float, float]:
        values = [pass_at_k(num_samples, group.num_correct, k) for group in chosen]
        return mean_with_interval(values, num_bootstrap=num_bootstrap, seed=seed)

    ks = [k for k in ks if k <= num_samples]
    by_k = {k: estimate(groups, k) for k in ks}
    pass_at_1, low, high = estimate(groups, 1)
    subdomains = {}
    for subdomain in subdomains_of([group.problem for group in groups]):
        chosen = [group for group in groups if group.problem.subdomain == subdomain]
        subdomains[subdomain] = {
            "num_problems": len(chosen),
            "pass_at_1": estimate(chosen, 1)[0],
            "pass_at_k": {str(k): estimate(chosen, k)[0] for k in ks},
        }
    return {
        "num_problems": len(groups),
        "num_samples": num_samples,
        "pass_at_1": pass_at_1,
        "pass_at_1_ci": [low, high],
        "pass_at_k": {str(k): value for k, (value, _, _) in by_k.items()},
        "pass_at_k_ci": {str(k): [low, high] for k, (_, low, high) in by_k.items()},
        "subdomains": subdomains,
        "truncated": fmean(completion.finish_reason == "length" for completion in completions),
        "mean_tokens": fmean(len(completion.token_ids) for completion in completions),
    }
