"""`vibelite eval`: a model on a benchmark, without a run. Every sample is kept."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vibelite.commands.options import (
    AsJson,
    ColumnNames,
    Limit,
    Verifier,
    interruptible,
    print_json,
    read_columns,
    require_models,
)
from vibelite.errors import RecipeError

if TYPE_CHECKING:
    from vibelite.recipe.data_section import ProblemSource
    from vibelite.recipe.stage_section import EvaluateStage

# For anything but the report's benchmarks.
DEFAULT_SAMPLING = {"num_samples": 8, "max_new_tokens": 512, "temperature": 1.0, "top_p": 1.0}
DEFAULT_K = 8
NUM_BOOTSTRAP = 10_000


def evaluate(
    model: Annotated[Path, typer.Argument(help="A Hugging Face model directory.")],
    bench: Annotated[
        str, typer.Option(help="aime25, ..., a file, owner/name on the hub, or a generator.")
    ],
    file: Annotated[
        Path | None, typer.Option(help="Where the benchmark's problems are, instead of the hub.")
    ] = None,
    num_samples: Annotated[
        int | None,
        typer.Option(min=1, help="Completions per problem; default: the report's, or 8."),
    ] = None,
    k: Annotated[list[int], typer.Option(min=1, help="Pass@k; may be repeated.")] = [],  # noqa: B006
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest completion; default: the report's, or 512.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="0 is greedy; default: the report's, or 1.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="Default: the report's, or 1.")
    ] = None,
    limit: Limit = None,
    columns: ColumnNames = "",
    verifier: Verifier = "math",
    clr: Annotated[
        int, typer.Option(min=0, metavar="M", help="Also vote by the reliability of M claims each.")
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Samples and result; default: a directory by the model.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Pass@1, Pass@k and majority vote with 95% intervals; the same command again resumes.

    vibelite eval runs/mine/export --bench aime25 --k 8

    --bench aime24, aime25, hmmt25, math500, gpqa, lcb-v5 and lcb-v6 are sampled as in the report.
    """
    require_models([model])
    names = read_columns(columns)
    chosen = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
    with redirect_stdout(sys.stderr):
        from vibelite.commands.single_stage import problem_source

        source = problem_source(bench, columns=names, verifier=verifier, limit=limit, file=file)
        stage = evaluate_stage(bench, num_samples=num_samples, k=k, sampling=chosen)
        with interruptible():
            result = evaluate_model(model, source, stage, out=out, num_claims=clr)
    if as_json:
        print_json({"model": str(model), "benchmark": bench, **result})
        return
    from vibelite.tables import evaluation_table

    print(evaluation_table(f"{model} on {bench}", result))


def evaluate_stage(
    bench: str,
    *,
    num_samples: int | None,
    k: Sequence[int],
    sampling: Mapping[str, float | None],
) -> EvaluateStage:
    """The stage that is run. What is None, and an empty `k`, are the report's values for its
    benchmarks, and those of DEFAULT_SAMPLING for others.
    """
    from vibelite.data.benchmarks import BENCHMARKS
    from vibelite.recipe.stage_section import BASE, EvaluateStage, Sampling

    preset = BENCHMARKS.get(bench)
    defaults = DEFAULT_SAMPLING
    if preset is not None:
        defaults = {name: getattr(preset, name) for name in DEFAULT_SAMPLING}
    values = {name: value for name, value in sampling.items() if value is not None}
    count = num_samples or int(defaults["num_samples"])
    ks = list(k) or [min(DEFAULT_K, count)]
    if max(ks) > count:
        raise RecipeError(f"--num-samples {count}: must be at least --k {max(ks)}")
    chosen = {name: value for name, value in defaults.items() if name != "num_samples"} | values
    return EvaluateStage(
        kind="evaluate",
        benchmarks=[BASE],
        num_samples=count,
        k=ks,
        sampling=Sampling.model_validate(chosen),
    )


def evaluate_model(
    model: Path,
    source: ProblemSource,
    stage: EvaluateStage,
    *,
    out: Path | None,
    num_claims: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """The result of one model (see `stages.evaluate.summarise`); every sample, the settings and the
    result are kept in the directory "out" of the result. With `num_claims` also "clr", what the
    vote weighted by claim-level reliability gives (see `stages.claims`).

    The same call goes on where an earlier one was stopped. `out` None = beside the model, in a
    directory that is named after benchmark and settings. Raises RecipeError for a directory that
    holds an evaluation with other settings.
    """
    from vibelite.commands import single_stage
    from vibelite.data.benchmarks import describe_benchmark
    from vibelite.run_dir import write_json_atomic
    from vibelite.run_lock import locked
    from vibelite.stages.claims import add_reliabilities, clr_result
    from vibelite.stages.evaluate import summarise
    from vibelite.stages.sampling import SampleRequest, collect_samples

    problems = single_stage.read_problems(source, seed)
    described = describe_benchmark(source, problems)
    settings = {
        "data_sha256": described["data"]["sha256"],
        "model": single_stage.fingerprint(model),
        "num_samples": stage.num_samples,
        "sampling": stage.sampling.model_dump(mode="json"),
        "seed": seed,
    }
    directory = out or default_directory(model, source, settings)
    holder = f"--out {directory}: holds an evaluation"
    single_stage.require_same_settings(directory, settings, holder=holder)
    with locked(directory), single_stage.stage_context(stage, seed) as context:
        request = SampleRequest(
            model, problems, stage.sampling, stage.num_samples, context.seed("eval")
        )
        samples = collect_samples(request, directory / "samples.jsonl", context, {})
        if num_claims:
            samples = add_reliabilities(request, directory, context, num_claims)
    result = summarise(samples, stage.k, num_bootstrap=NUM_BOOTSTRAP, seed=seed) | described
    if num_claims:
        settled = {"num_bootstrap": NUM_BOOTSTRAP, "seed": seed}
        result["clr"] = clr_result(samples, num_claims, **settled)
    result["sampling"] = settings["sampling"]
    write_json_atomic(directory / "result.json", result)
    return {**result, "out": str(directory)}


def default_directory(model: Path, source: ProblemSource, settings: dict[str, Any]) -> Path:
    """Beside the model: `<model>-eval/<benchmark>-<hash of the settings>`."""
    match source.source:
        case "benchmark":
            name = source.name
        case "file" | "hub":
            name = Path(source.path).stem
        case "reasoning_gym":
            name = next(iter(source.tasks))
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    path = model.resolve()
    return path.with_name(f"{path.name}-eval") / f"{name}-{digest[:8]}"
