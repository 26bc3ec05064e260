"""What `vibelite eval` and `probe` share: samples of any Hugging Face model
directory, without a run, kept so that the same command goes on where it was stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vibelite.commands.options import table_kind
from vibelite.data.benchmarks import BENCHMARKS, content_hash
from vibelite.data.sources import load_problems
from vibelite.errors import RecipeError
from vibelite.pipeline import make_context
from vibelite.planning.model_shape import model_directory
from vibelite.recipe.data_section import (
    BenchmarkProblems,
    Columns,
    Data,
    GeneratedProblems,
    GeneratedTask,
    ProblemSource,
    ProblemTable,
)
from vibelite.recipe.model_section import PretrainedModel
from vibelite.recipe.schema import Recipe
from vibelite.recipe.stage_section import BASE, EvaluateStage
from vibelite.run_dir import RunDir, StageDir, read_json, write_json_atomic
from vibelite.run_lock import locked
from vibelite.stages.context import StageContext
from vibelite.stages.sampling import SampleRequest, collect_samples
from vibelite.telemetry.meter import Meter
from vibelite.types import Problem

# A generated benchmark without --limit: an interval of about +-7 points at a Pass@1 of one half.
NUM_GENERATED = 200
# Read from each end of a model's files to tell models apart.
FINGERPRINT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A model's samples on a benchmark, without their texts, and the directory that holds all."""

    directory: Path
    problems: list[Problem]
    request: SampleRequest
    context: StageContext
    samples: list[dict[str, Any]]


def problem_source(
    text: str, *, columns: Columns, verifier: str, limit: int | None, file: Path | None = None
) -> ProblemSource:
    """What `--bench` and `--problems` mean: a benchmark of the report (from `file` or the hub), a
    file, a hub data set (owner/name), or the name of a reasoning-gym generator, of which the test
    split is taken.
    """
    if file is not None and not file.exists():
        raise RecipeError(f"--file {file}: no such file")
    if text in BENCHMARKS:
        path = str(file or "")
        values = {"source": "benchmark", "name": text, "path": path, "num_problems": limit}
        return BenchmarkProblems.model_validate(values)
    if file is not None:
        raise RecipeError(f"--file {file}: only with --bench {', '.join(BENCHMARKS)}")
    values = {"columns": columns, "verifier": verifier, "num_problems": limit}
    return table_source(text, values) or GeneratedProblems(
        source="reasoning_gym",
        split="test",
        num_problems=limit or NUM_GENERATED,
        tasks={text: GeneratedTask(dataset=text)},
    )


def table_source(text: str, values: Mapping[str, Any]) -> ProblemTable | None:
    """A file or a data set on the hub with these settings; None for a text that names neither."""
    kind = table_kind(text)
    return kind and ProblemTable.model_validate({"source": kind, "path": text, **values})


@contextmanager
def evaluated(
    model: Path,
    source: ProblemSource,
    stage: EvaluateStage,
    *,
    out: Path | None,
    opened: list[Any],
) -> Iterator[Evaluation]:
    """Every sample of one model, drawn where `out` does not have it yet; the context, in which more
    can be sampled, and the lock of the directory live as long as the block.

    `model` is a directory or a hub's name. `opened` keeps the engine for the next model
    (`one_engine`). `out` None = beside the model, or under evaluations/ for one of the hub, in a
    directory named after benchmark and settings. All models get the same random numbers.
    RecipeError for a directory of other settings.
    """
    path = model_directory(model)
    problems = load_problems(source, recipe_dir=Path.cwd(), seed=0)
    settings = {
        "data_sha256": content_hash(problems),
        "model": fingerprint(path),
        "num_samples": stage.num_samples,
        "sampling": stage.sampling.model_dump(mode="json"),
        "seed": 0,
    }
    directory = out or default_directory(model, source, settings)
    _require_same(settings, directory)
    with locked(directory), stage_context(stage, opened=opened) as context:
        seed = context.seed("eval")
        request = SampleRequest(path, problems, stage.sampling, stage.num_samples, seed)
        samples = collect_samples(request, directory / "samples.jsonl", context, {})
        yield Evaluation(directory, problems, request, context, samples)


@contextmanager
def one_engine() -> Iterator[list[Any]]:
    """What is given to `evaluated` as `opened`; the engine in it ends with the block."""
    opened: list[Any] = []
    try:
        yield opened
    finally:
        while opened:
            opened.pop().close()


@contextmanager
def stage_context(
    stage: EvaluateStage, seed: int = 0, *, opened: list[Any]
) -> Iterator[StageContext]:
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
            yield replace(context, opened=opened)


def default_directory(model: Path, source: ProblemSource, settings: dict[str, Any]) -> Path:
    """`<model>-eval/<benchmark>-<hash of the settings>`, beside a model's directory."""
    match source.source:
        case "benchmark":
            name = source.name
        case "file" | "hub":
            name = Path(source.path).stem
        case "reasoning_gym":
            name = next(iter(source.tasks))
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    path = model.resolve()
    if not model.is_dir():
        path = Path("evaluations") / str(model).replace("/", "--")
    return path.with_name(f"{path.name}-eval") / f"{name}-{digest[:8]}"


def _require_same(settings: dict[str, Any], directory: Path) -> None:
    """Writes `settings` to the directory, or checks that those in it are the same."""
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
            f"--out {directory}: holds an evaluation with other settings ({'; '.join(different)}); "
            "name another directory"
        )


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
