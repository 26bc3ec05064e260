"""`vibelite probe`: Pass@k of models per sub-domain, without a run. Every sample is kept."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vibelite.commands.eval import evaluate_stage
from vibelite.commands.options import (
    AsJson,
    ColumnNames,
    Limit,
    Models,
    Verifier,
    interruptible,
    print_json,
    read_columns,
    require_models,
)

if TYPE_CHECKING:
    from vibelite.recipe.data_section import ProblemSource
    from vibelite.recipe.stage_section import EvaluateStage


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
    out: Annotated[
        Path | None, typer.Option(help="Samples, a directory for each model; default: by each.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Pass@k of models per sub-domain, and the best of each; the same command again resumes.

    vibelite probe ckpt/step-* --problems probe.jsonl --k 8
    """
    require_models(models)
    names = read_columns(columns)
    chosen = {"max_new_tokens": max_new_tokens, "temperature": temperature}
    stage = evaluate_stage("", num_samples=num_samples, k=[k], sampling=chosen)
    with redirect_stdout(sys.stderr), interruptible():
        from vibelite.commands.single_stage import problem_source

        source = problem_source(problems, columns=names, verifier=verifier, limit=limit)
        result = probe_models(models, source, stage, out)
    if as_json:
        print_json(result)
        return
    from vibelite.tables import probe_table

    print(probe_table(result))


def probe_models(
    models: Sequence[Path], source: ProblemSource, stage: EvaluateStage, out: Path | None
) -> dict[str, Any]:
    """Pass@1 and Pass@k of every model per sub-domain, and the best model of each sub-domain; a tie
    goes to the higher Pass@1, then to the later model.
    """
    from vibelite.commands.single_stage import evaluated, one_engine
    from vibelite.stages.context import subdomains_of
    from vibelite.stages.probe import choose_specialist, mean_pass_at_k

    scores, problems, (k,) = [], [], stage.k
    with one_engine() as opened:
        for index, model in enumerate(models):
            print(f"probe {index + 1}/{len(models)}  {model}", file=sys.stderr)
            directory = out and out / f"{index + 1}-{model.resolve().name}"
            with evaluated(model, source, stage, out=directory, opened=opened) as found:
                problems = found.problems
            scores.append(
                {
                    "step": index,
                    "model": str(model),
                    "pass_at_1": mean_pass_at_k(found.samples, 1),
                    "pass_at_k": mean_pass_at_k(found.samples, k),
                }
            )
    specialists = {
        subdomain: str(models[choose_specialist(scores, subdomain)])
        for subdomain in subdomains_of(problems)
    }
    return {
        "k": k,
        "num_samples": stage.num_samples,
        "num_problems": len(problems),
        "models": [{key: score[key] for key in score if key != "step"} for score in scores],
        "specialists": specialists,
    }
