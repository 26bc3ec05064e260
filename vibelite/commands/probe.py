"""`vibelite probe`: Pass@k of models per sub-domain, without a run. Only the result is kept."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vibelite.commands.options import (
    AsJson,
    ColumnNames,
    Limit,
    Models,
    Verifier,
    print_json,
    read_columns,
    require_models,
)
from vibelite.errors import RecipeError

if TYPE_CHECKING:
    from vibelite.recipe.data_section import ProblemSource
    from vibelite.recipe.stage_section import ProbeStage


def probe(
    models: Models,
    problems: Annotated[
        str, typer.Option(help="A file, owner/name on the hub, or a reasoning-gym generator.")
    ],
    num_samples: Annotated[int, typer.Option(min=1, help="Completions per problem.")] = 16,
    k: Annotated[int, typer.Option(min=1, help="Pass@k chooses the specialists.")] = 8,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Longest completion, in tokens.")
    ] = 512,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 1.0,
    limit: Limit = None,
    columns: ColumnNames = "",
    verifier: Verifier = "math",
    as_json: AsJson = False,
) -> None:
    """Pass@k of models per sub-domain, and the best of each.

    vibelite probe ckpt/step-* --problems probe.jsonl --k 8
    """
    require_models(models)
    names = read_columns(columns)
    if k > num_samples:
        raise RecipeError(f"--num-samples {num_samples}: must be at least --k {k}")
    with redirect_stdout(sys.stderr):
        from vibelite.commands.single_stage import problem_source
        from vibelite.recipe.stage_section import ProbeStage, Sampling

        source = problem_source(problems, columns=names, verifier=verifier, limit=limit)
        sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature)
        stage = ProbeStage(kind="probe", num_samples=num_samples, k=k, sampling=sampling)
        result = probe_models(models, source, stage)
    if as_json:
        print_json(result)
        return
    from vibelite.tables import probe_table

    print(probe_table(result))


def probe_models(
    models: Sequence[Path], source: ProblemSource, stage: ProbeStage, *, seed: int = 0
) -> dict[str, Any]:
    """Pass@1 and Pass@k of every model per sub-domain, and the best model of each sub-domain.

    All models are sampled with the same random numbers; a tie goes to the higher Pass@1, then to
    the later model.
    """
    from vibelite.commands.single_stage import read_problems, stage_context
    from vibelite.stages.context import subdomains_of
    from vibelite.stages.probe import choose_specialist, mean_pass_at_k, probe_request
    from vibelite.stages.sampling import collect_samples

    problems = read_problems(source, seed)
    scores = []
    for index, model in enumerate(models):
        print(f"probe {index + 1}/{len(models)}  {model}", file=sys.stderr)
        with stage_context(stage, seed) as context:
            request = probe_request(model, problems, stage, context.seed("probe"))
            samples = collect_samples(request, context.stage_dir.samples_path, context, {})
        scores.append(
            {
                "step": index,
                "model": str(model),
                "pass_at_1": mean_pass_at_k(samples, 1),
                "pass_at_k": mean_pass_at_k(samples, stage.k),
            }
        )
    specialists = {
        subdomain: str(models[choose_specialist(scores, subdomain)])
        for subdomain in subdomains_of(problems)
    }
    return {
        "k": stage.k,
        "num_samples": stage.num_samples,
        "num_problems": len(problems),
        "models": [{key: score[key] for key in score if key != "step"} for score in scores],
        "specialists": specialists,
    }
