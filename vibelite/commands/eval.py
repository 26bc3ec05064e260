"""`vibelite eval`: a model on a benchmark, without a run. Every sample is kept."""

from __future__ import annotations

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
    model: Annotated[Path, typer.Argument(help="A Hugging Face directory, or owner/name.")],
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
    clr_repeats: Annotated[
        int, typer.Option(min=1, help="In how many votes --clr splits the samples; report: 8.")
    ] = 1,
    out: Annotated[
        Path | None, typer.Option(help="Samples and result; default: a directory by the model.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Pass@1, Pass@k and majority vote with 95% intervals; the same command again resumes.

    vibelite eval runs/mine/export --bench aime25 --k 8

    --bench aime24, aime25, aime26, hmmt25, brumo25, math500, gpqa, lcb-v5 and lcb-v6 are sampled
    as in the 1.5B report.
    """
    require_models([model])
    names = read_columns(columns)
    chosen = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
    with redirect_stdout(sys.stderr):
        from vibelite.commands.single_stage import problem_source

        source = problem_source(bench, columns=names, verifier=verifier, limit=limit, file=file)
        stage = evaluate_stage(bench, num_samples=num_samples, k=k, sampling=chosen)
        with interruptible():
            votes = {"num_claims": clr, "num_repeats": clr_repeats}
            result = evaluate_model(model, source, stage, out=out, **votes)
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
    num_repeats: int = 1,
) -> dict[str, Any]:
    """The result of one model (see `stages.evaluate.summarise`), which is also kept beside its
    samples in the directory "out" of the result. With claims also "clr", what the votes weighted
    by claim-level reliability give (see `stages.claims`).
    """
    from vibelite.commands.single_stage import evaluated, one_engine
    from vibelite.data.benchmarks import describe_benchmark
    from vibelite.run_dir import write_json_atomic
    from vibelite.stages.claims import add_reliabilities, clr_result
    from vibelite.stages.evaluate import summarise

    if stage.num_samples % num_repeats:
        raise RecipeError(
            f"--clr-repeats {num_repeats}: must divide --num-samples, which is {stage.num_samples}"
        )
    settled = {"num_bootstrap": NUM_BOOTSTRAP, "seed": 0}
    with one_engine() as opened, evaluated(model, source, stage, out=out, opened=opened) as found:
        result = summarise(found.samples, stage.k, **settled)
        result |= describe_benchmark(source, found.problems)
        if num_claims:
            samples = add_reliabilities(found.request, found.directory, found.context, num_claims)
            result["clr"] = clr_result(samples, num_claims, num_repeats, **settled)
    result["sampling"] = stage.sampling.model_dump(mode="json")
    write_json_atomic(found.directory / "result.json", result)
    return {**result, "out": str(found.directory)}
