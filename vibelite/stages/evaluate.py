"""Pass@1, Pass@k and the majority's answer of models on problem sets, with confidence intervals
over problems.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from vibelite.algorithms.pass_at_k import pass_at_k
from vibelite.algorithms.statistics import NUM_BOOTSTRAP, mean_with_interval, sampling_error
from vibelite.algorithms.votes import majority_vote
from vibelite.data.benchmarks import describe_benchmark
from vibelite.recipe.stage_section import EvaluateStage
from vibelite.rewards.choice import letter_shares
from vibelite.run_dir import write_json_atomic
from vibelite.stages.context import StageContext
from vibelite.stages.sampling import SampleRequest, collect_samples, joined_parts, part_path
from vibelite.telemetry.ledger import run_cost


def run(stage: EvaluateStage, context: StageContext) -> None:
    """Leaves results.json (one row per model and benchmark) and every sample in samples.jsonl."""
    rows = []
    for producer in context.recipe.models_to_evaluate(stage):
        seconds, usd = run_cost(context.run.ledger_path, producer)
        for name, path in context.models_of(producer).items():
            for benchmark in stage.benchmarks:
                result = evaluate_once(stage, context, path, benchmark)
                row = {"stage": name, "benchmark": benchmark, **result}
                rows.append(row | {"usd": usd, "seconds": seconds})
    write_json_atomic(context.stage_dir.path / "results.json", rows)
    with joined_parts(context):
        context.stage_dir.finish(models={})


def evaluate_once(
    stage: EvaluateStage, context: StageContext, model: Path, benchmark: str
) -> dict[str, Any]:
    """The result of one model directory on one benchmark. A model with two names is sampled once.
    The seed is the benchmark's: models are compared on the same random numbers.
    """
    key = f"{benchmark}--{'-'.join(model.relative_to(context.run.path).parts)}"
    problems, seed = context.problems(benchmark), context.seed(benchmark)
    request = SampleRequest(model, problems, stage.sampling, stage.num_samples, seed)
    samples = collect_samples(request, part_path(context, key), context, {"key": key})
    with context.meter.span("results"):
        result = summarise(
            samples, stage.k, num_bootstrap=NUM_BOOTSTRAP, seed=context.seed("bootstrap")
        )
    context.recorder.record_work("evaluate", model=key, benchmark=benchmark)
    return result | describe_benchmark(context.recipe.data.problems[benchmark], problems)


def summarise(
    samples: Sequence[Mapping[str, Any]], ks: Sequence[int], *, num_bootstrap: int, seed: int
) -> dict[str, Any]:
    """The result of one model on one benchmark, from the rows of its samples, which must be equally
    many for every problem.

    pass_at_1 is the mean share of correct samples (avg@n); its interval (bootstrap) is for another
    set of such problems, pass_at_1_sampling_error (None for one sample) for other samples of the
    same. cons_at_n is the majority's score, num_ties the number of shared first places; both are
    None where no sample has a comparable answer (code).
    """
    groups = by_problem(samples)
    num_samples = len(groups[0])
    assert {len(group) for group in groups} == {num_samples}, "unequal numbers of samples"

    def estimate(values: Sequence[float]) -> tuple[float, float, float]:
        return mean_with_interval(values, num_bootstrap=num_bootstrap, seed=seed)

    num_correct = [sum(sample["correct"] is True for sample in group) for group in groups]
    scores = {
        k: [pass_at_k(num_samples, count, k) for count in num_correct]
        for k in dict.fromkeys([1, *ks])
        if k <= num_samples
    }
    by_k = {str(k): estimate(scores[k]) for k in scores if k in ks}
    letters = [sample["letter"] for sample in samples if "letter" in sample]
    pass_at_1, low, high = estimate(scores[1])
    return {
        "num_problems": len(groups),
        "num_samples": num_samples,
        "pass_at_1": pass_at_1,
        "pass_at_1_ci": [low, high],
        "pass_at_1_sampling_error": sampling_error(num_correct, num_samples),
        "pass_at_k": {k: value for k, (value, _, _) in by_k.items()},
        "pass_at_k_ci": {k: [low, high] for k, (_, low, high) in by_k.items()},
        **consensus(groups, estimate),
        "subdomains": by_subdomain(groups, scores, ks),
        "truncated": fmean(sample["finish_reason"] == "length" for sample in samples),
        "verifier_failures": sum(bool(sample.get("failure")) for sample in samples),
        "unverifiable": fmean(sample["correct"] is None for sample in samples),
        "mean_tokens": fmean(sample["num_tokens"] for sample in samples),
        **({"letters": letter_shares(letters)} if letters else {}),
    }


def by_problem(samples: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """The rows of each problem."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for sample in samples:
        groups.setdefault(sample["problem_id"], []).append(sample)
    return list(groups.values())


def consensus(
    groups: Sequence[Sequence[Mapping[str, Any]]],
    estimate: Callable[[Sequence[float]], tuple[float, float, float]],
) -> dict[str, Any]:
    """cons@n over problems with its interval, and the number of ties."""
    if not any("answer" in sample for group in groups for sample in group):
        return {"cons_at_n": None, "cons_at_n_ci": None, "num_ties": None}
    votes = [
        majority_vote(
            [sample.get("answer") for sample in group],
            [sample["correct"] is True for sample in group],
        )
        for group in groups
    ]
    score, low, high = estimate([score for score, _ in votes])
    num_ties = sum(num_winners > 1 for _, num_winners in votes)
    return {"cons_at_n": score, "cons_at_n_ci": [low, high], "num_ties": num_ties}


def by_subdomain(
    groups: Sequence[Sequence[Mapping[str, Any]]],
    scores: Mapping[int, Sequence[float]],
    ks: Sequence[int],
) -> dict[str, dict[str, Any]]:
    """Number of problems, Pass@1 and Pass@k by sub-domain; `scores[k]` is Pass@k by problem."""
    members: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group[0]["subdomain"], []).append(place)
    return {
        subdomain: {
            "num_problems": len(places),
            "pass_at_1": fmean(scores[1][place] for place in places),
            "pass_at_k": {
                str(k): fmean(scores[k][place] for place in places) for k in scores if k in ks
            },
        }
        for subdomain, places in members.items()
    }
