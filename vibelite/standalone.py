"""The stages evaluate, probe and fuse by themselves, on any Hugging Face directories and without a
run: what `vibelite eval`, `vibelite probe` and `vibelite fuse` do. Only the result is kept.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vibelite.data.sources import load_problems
from vibelite.errors import RecipeError
from vibelite.pipeline import make_context
from vibelite.recipe.data_section import (
    Columns,
    Data,
    GeneratedProblems,
    GeneratedTask,
    ProblemFile,
    ProblemHub,
    ProblemSource,
)
from vibelite.recipe.model_section import PretrainedModel
from vibelite.recipe.schema import Recipe
from vibelite.recipe.stage_section import BASE, EvaluateStage, ProbeStage, Sampling
from vibelite.run_dir import RunDir, StageDir
from vibelite.stages.context import StageContext, subdomains_of
from vibelite.stages.evaluate import sample_model, summarise
from vibelite.stages.fuse import write_fused
from vibelite.stages.probe import choose_specialist, mean_pass_at_k
from vibelite.telemetry.meter import Meter
from vibelite.types import Problem

TABLE_SUFFIXES = (".jsonl", ".json", ".parquet")
# A generated benchmark without --limit: an interval of about +-7 points at a Pass@1 of one half.
NUM_GENERATED = 200


def benchmark_source(
    text: str, *, columns: Columns, verifier: str, limit: int | None
) -> ProblemSource:
    """What `--bench` and `--problems` mean: a file, a hub data set (owner/name), or the name of a
    reasoning-gym generator, of which the test split is taken.
    """
    table = {"path": text, "columns": columns, "verifier": verifier, "num_problems": limit}
    if Path(text).suffix in TABLE_SUFFIXES:
        if not Path(text).is_file():
            raise RecipeError(f"{text}: no such file")
        return ProblemFile.model_validate({"source": "file", **table})
    if "/" in text:
        return ProblemHub.model_validate({"source": "hub", **table})
    return GeneratedProblems(
        source="reasoning_gym",
        split="test",
        num_problems=limit or NUM_GENERATED,
        tasks={text: GeneratedTask(dataset=text)},
    )


def evaluate_model(
    model: Path, source: ProblemSource, stage: EvaluateStage, *, seed: int = 0
) -> dict[str, Any]:
    """Pass@1 and Pass@k of one model with intervals, over all problems and per sub-domain."""
    problems = read_problems(source, seed)
    with standalone_context(stage, seed) as context:
        groups = sample_model(
            context, model, problems, stage.sampling, stage.num_samples, seed=context.seed("eval")
        )
    return summarise(groups, stage.k, num_bootstrap=stage.num_bootstrap, seed=seed)


def probe_models(
    models: Sequence[Path], source: ProblemSource, stage: ProbeStage, *, seed: int = 0
) -> dict[str, Any]:
    """Pass@1 and Pass@k of every model per sub-domain, and the best model of each sub-domain.

    All models are sampled with the same random numbers; a tie goes to the higher Pass@1, then to
    the later model.
    """
    problems = read_problems(source, seed)
    scores = []
    for index, model in enumerate(models):
        print(f"probe {index + 1}/{len(models)}  {model}", file=sys.stderr)
        with standalone_context(stage, seed) as context:
            settings = (stage.sampling, stage.num_samples)
            groups = sample_model(context, model, problems, *settings, seed=context.seed("probe"))
        scores.append(
            {
                "step": index,
                "model": str(model),
                "pass_at_1": mean_pass_at_k(groups, 1),
                "pass_at_k": mean_pass_at_k(groups, stage.k),
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


def fuse_directories(
    models: Sequence[Path], weights: Sequence[float], output: Path
) -> dict[str, Any]:
    """Writes the mean of `models`, with `weights` normalised, to the new directory `output`."""
    if len(weights) != len(models):
        raise RecipeError(f"--weights: {len(weights)} weights for {len(models)} models")
    if min(weights) < 0 or sum(weights) == 0:
        raise RecipeError(f"--weights: {list(weights)}: none may be negative, nor all 0")
    if output.exists():
        raise RecipeError(f"{output}: exists already; name a new directory")
    write_fused([model.resolve() for model in models], [str(m) for m in models], weights, output)
    total = sum(weights)
    sources = [
        {"model": str(model), "weight": weight / total}
        for model, weight in zip(models, weights, strict=True)
    ]
    return {"output": str(output), "sources": sources}


def read_problems(source: ProblemSource, seed: int) -> list[Problem]:
    """The problems of a source whose paths are relative to the working directory."""
    return load_problems(source, recipe_dir=Path.cwd(), seed=seed)


@contextmanager
def standalone_context(stage: EvaluateStage | ProbeStage, seed: int) -> Iterator[StageContext]:
    """A context for one stage of a recipe that holds nothing else, in a temporary directory."""
    recipe = Recipe(
        name=stage.name,
        seed=seed,
        model=PretrainedModel(source="pretrained", path=BASE),
        data=Data(),
        stages=[stage],
    )
    with TemporaryDirectory(prefix="vibelite-") as directory:
        run = RunDir(Path(directory))
        stage_dir = StageDir(run.path / stage.name)
        yield make_context(recipe, run.path / "recipe.yaml", run, stage.name, stage_dir, Meter())


def evaluate_stage(*, num_samples: int, k: list[int], sampling: Sampling) -> EvaluateStage:
    """The stage that `vibelite eval` runs."""
    if max(k) > num_samples:
        raise RecipeError(f"--num-samples {num_samples}: must be at least --k {max(k)}")
    return EvaluateStage(
        kind="evaluate", benchmarks=[BASE], num_samples=num_samples, k=k, sampling=sampling
    )


def probe_stage(*, num_samples: int, k: int, sampling: Sampling) -> ProbeStage:
    """The stage that `vibelite probe` runs."""
    if k > num_samples:
        raise RecipeError(f"--num-samples {num_samples}: must be at least --k {k}")
    return ProbeStage(kind="probe", num_samples=num_samples, k=k, sampling=sampling)
