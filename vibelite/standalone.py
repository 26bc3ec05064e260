"""The stages evaluate, probe and fuse by themselves, on any Hugging Face directories and without a
run: what `vibelite eval`, `vibelite probe` and `vibelite fuse` do. Of probing and fusing only the
result is kept, of an evaluation every sample.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vibelite.data.benchmarks import BENCHMARKS, content_hash, describe_benchmark
from vibelite.data.probing_set import Candidate, Tally
from vibelite.data.sources import load_problems
from vibelite.errors import RecipeError
from vibelite.pipeline import make_context
from vibelite.recipe.data_section import (
    BenchmarkProblems,
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
from vibelite.run_dir import RunDir, StageDir, read_json, write_json_atomic
from vibelite.run_lock import locked
from vibelite.stages.claims import add_reliabilities, clr_result
from vibelite.stages.context import StageContext, subdomains_of
from vibelite.stages.evaluate import summarise
from vibelite.stages.fuse import write_fused
from vibelite.stages.probe import choose_specialist, mean_pass_at_k, probe_request
from vibelite.stages.problem_votes import Election, hold_election
from vibelite.stages.sampling import SampleRequest, collect_samples
from vibelite.telemetry.meter import Meter
from vibelite.types import Problem

TABLE_SUFFIXES = (".jsonl", ".json", ".parquet")
# A generated benchmark without --limit: an interval of about +-7 points at a Pass@1 of one half.
NUM_GENERATED = 200
# `vibelite eval` on anything but the report's benchmarks.
DEFAULT_SAMPLING = {"num_samples": 8, "max_new_tokens": 512, "temperature": 1.0, "top_p": 1.0}
DEFAULT_K = 8
NUM_BOOTSTRAP = 10_000
# Read from each end of a model's files to tell models apart.
FINGERPRINT_BYTES = 1 << 20


def benchmark_source(
    text: str, *, columns: Columns, verifier: str, limit: int | None, file: Path | None = None
) -> ProblemSource:
    """What `--bench` and `--problems` mean: a benchmark of the report (from `file` or the hub), a
    file, a hub data set (owner/name), or the name of a reasoning-gym generator, of which the test
    split is taken.
    """
    table = {"path": text, "columns": columns, "verifier": verifier, "num_problems": limit}
    if file is not None and not file.exists():
        raise RecipeError(f"--file {file}: no such file")
    if text in BENCHMARKS:
        path = str(file or "")
        values = {"source": "benchmark", "name": text, "path": path, "num_problems": limit}
        return BenchmarkProblems.model_validate(values)
    if file is not None:
        raise RecipeError(f"--file {file}: only with --bench {', '.join(BENCHMARKS)}")
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
    problems = read_problems(source, seed)
    described = describe_benchmark(source, problems)
    settings = {
        "data_sha256": described["data"]["sha256"],
        "model": fingerprint(model),
        "num_samples": stage.num_samples,
        "sampling": stage.sampling.model_dump(mode="json"),
        "seed": seed,
    }
    directory = out or default_directory(model, source, settings)
    require_same_settings(directory, settings)
    with locked(directory), standalone_context(stage, seed) as context:
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
    match source:
        case BenchmarkProblems():
            name = source.name
        case ProblemFile() | ProblemHub():
            name = Path(source.path).stem
        case GeneratedProblems():
            name = next(iter(source.tasks))
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    path = model.resolve()
    return path.with_name(f"{path.name}-eval") / f"{name}-{digest[:8]}"


def require_same_settings(directory: Path, settings: dict[str, Any], *, holder: str = "") -> None:
    """Writes `settings` to the directory, or checks that those in it are the same; `holder` begins
    the message where they are not.
    """
    path = directory / "settings.json"
    if not path.exists():
        write_json_atomic(path, settings)
        return
    before = read_json(path)
    different = [
        f"{key} was {before.get(key)}, now {value}"
        for key, value in settings.items()
        if before.get(key) != value
    ]
    if different:
        raise RecipeError(
            f"{holder or f'--out {directory}: holds an evaluation'} with other settings "
            f"({'; '.join(different)}); name another directory"
        )


def vote_on_problems(
    problems: Sequence[Problem],
    subdomains: Sequence[str],
    election: Election,
    directory: Path,
    *,
    seed: int,
    tally: Tally,
) -> list[Candidate]:
    """The problems on which a model is clear, with its votes (see `stages.problem_votes`); the same
    call goes on where an earlier one was stopped. Raises RecipeError for a directory that holds
    votes with other settings.
    """
    settings = {
        "data_sha256": content_hash(problems),
        "model": fingerprint(election.model),
        "subdomains": list(subdomains),
        "seed": seed,
        **election.settings(),
    }
    require_same_settings(directory, settings, holder=f"{directory}: holds votes")
    stage = ProbeStage(kind="probe", num_samples=1, k=1, sampling=election.sampling)
    with locked(directory), standalone_context(stage, seed) as context:
        return hold_election(problems, subdomains, election, directory, context, tally)


def fingerprint(model: Path) -> str:
    """SHA-256 that tells model directories apart: names and sizes of all files, the content of
    small ones, and both ends of large ones.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in model.iterdir() if path.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with open(path, "rb") as file:
            digest.update(file.read(FINGERPRINT_BYTES))
            file.seek(max(0, size - FINGERPRINT_BYTES))
            digest.update(file.read())
    return digest.hexdigest()


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
        recipe_path = run.path / "recipe.yaml"
        context = make_context(recipe, recipe_path, run, stage.name, stage_dir, Meter())
        with context.verifiers:
            yield context


def evaluate_stage(
    bench: str,
    *,
    num_samples: int | None,
    k: Sequence[int],
    sampling: Mapping[str, float | None],
) -> EvaluateStage:
    """The stage that `vibelite eval` runs. What is None, and an empty `k`, are the report's values
    for its benchmarks, and those of DEFAULT_SAMPLING for others.
    """
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


def probe_stage(*, num_samples: int, k: int, sampling: Sampling) -> ProbeStage:
    """The stage that `vibelite probe` runs."""
    if k > num_samples:
        raise RecipeError(f"--num-samples {num_samples}: must be at least --k {k}")
    return ProbeStage(kind="probe", num_samples=num_samples, k=k, sampling=sampling)
