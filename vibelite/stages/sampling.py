"""The samples of one model in a file, one row each: `collect_samples`, which all stages but MGPO
ask.

A stage that was killed draws only the samples that are still missing, and they come out as they
would have without the interruption: new completions in the place of those under way, which are
mostly the long ones, would change the score.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from vibelite.errors import RunStopped
from vibelite.recipe.stage_section import Sampling
from vibelite.rewards.failures import require_reliable
from vibelite.rewards.verifier import answer_key, shown_letter
from vibelite.rollout.engine import SamplingSettings
from vibelite.run_dir import append_jsonl, drop_directory, read_jsonl, write_jsonl_atomic
from vibelite.stages.context import StageContext, sampling_settings
from vibelite.stages.engines import open_engine
from vibelite.stages.rollout import Drawn, Wanted, draw, verified_row
from vibelite.types import Problem, Verdict

# What is not needed to compute a result; a benchmark's texts may exceed memory.
TEXTS = ("prompt", "completion")
# Verifiers that judge more than one answer, so that there is no majority.
WITHOUT_ANSWER = ("code", "instruct", "custom")
# Between two lines of the ledger, which are progress on the console: what a killed process spent
# since the last one is not accounted for.
SECONDS_PER_NOTE = 60
# Between two questions whether to stop.
SECONDS_PER_QUESTION = 1.0


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """`num_samples` completions of every problem by the model in the directory `model`."""

    model: Path
    problems: Sequence[Problem]
    sampling: Sampling
    num_samples: int
    seed: int

    @property
    def settings(self) -> SamplingSettings:
        return sampling_settings(self.sampling, self.num_samples)


def collect_samples(
    request: SampleRequest, path: Path, context: StageContext, labels: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Every sample without its texts, problem by problem; `path` holds them whole, in that order.

    Samples that `path` already has are kept, and only the others are drawn. `labels` become part
    of every row. Raises RunStopped, with all that ended on disk, when the run is asked to stop,
    and VibeLiteError where the verifier fails more often than the recipe allows.
    """
    repair(path, context.recipe.verification.max_failure_rate)
    places = {problem.id: place for place, problem in enumerate(request.problems)}
    done = {(places[row["problem_id"]], row["sample"]) for row in read_jsonl(path)}
    if len(done) < len(request.problems) * request.num_samples:
        draw_missing(request, done, path, context, labels)
    with context.meter.span("results"):
        if done or request.problems:
            sort_rows(path, places)
        return [
            {key: value for key, value in row.items() if key not in TEXTS}
            for row in read_jsonl(path)
        ]


def draw_missing(
    request: SampleRequest,
    done: set[tuple[int, int]],
    path: Path,
    context: StageContext,
    labels: Mapping[str, str],
) -> None:
    """Appends the samples that are not `done`, each as soon as its verdict is there: in a thread,
    for between two steps of the engine nothing else is to run.
    """
    policy, engine = open_engine(request.model, request.sampling, context)
    wanted = Wanted(request.problems, request.settings, request.seed, done)
    written: list[Future[Verdict]] = []

    def note() -> None:
        num_done = len(done) + sum(is_written(row) for row in written)
        total = len(request.problems) * request.num_samples
        context.recorder.record_work("sample", samples=f"{num_done}/{total}", **labels)

    asked = noted = time.monotonic()
    try:
        with ThreadPoolExecutor(1) as writer:
            with closing(draw(wanted, engine, policy, context)) as drawing:
                for drawn in drawing:
                    written.append(writer.submit(write_sample, drawn, path, labels))
                    if time.monotonic() - asked < SECONDS_PER_QUESTION:
                        continue
                    asked = time.monotonic()
                    require_written(written)
                    if asked - noted > SECONDS_PER_NOTE:
                        note()
                        noted = asked
                    if reason := context.recorder.reason_to_stop():
                        raise reason
                    context.recorder.check_deadline()
            with context.meter.span("verify"):
                verdicts = [row.result() for row in written]
    except RunStopped:  # behind the block, where all that ended is written
        note()
        raise
    require_reliable(verdicts, context.recipe.verification.max_failure_rate)


def write_sample(drawn: Drawn, path: Path, labels: Mapping[str, str]) -> Verdict:
    """Appends the row of a sample once it is judged."""
    verdict = drawn.verdict.result()
    append_jsonl(path, [{**labels, **sample_row(drawn, verdict)}])
    return verdict


def is_written(row: Future[Verdict]) -> bool:
    return row.done() and row.exception() is None


def require_written(rows: Sequence[Future[Verdict]]) -> None:
    """Raises what kept a row from being written."""
    for row in rows:
        if row.done():
            row.result()


def sample_row(drawn: Drawn, verdict: Verdict) -> dict[str, Any]:
    """`verified_row` with the sample's number and what a vote needs."""
    problem = drawn.problem
    row = verified_row(problem, drawn.completion, verdict) | {"sample": drawn.sample}
    if problem.verifier not in WITHOUT_ANSWER:
        row["answer"] = answer_key(problem, drawn.completion)
    if problem.verifier == "choice":
        row["letter"] = shown_letter(drawn.completion)
    return row


def repair(path: Path, max_failure_rate: float = 1.0) -> None:
    """Drops a torn last line, which the next row would be appended to, and samples that the
    verifier failed on, where these are too many: an earlier call stopped because of them, and once
    the cause is mended they are to be verified.
    """
    failed = [bool(row.get("failure")) for row in read_jsonl(path)]
    too_many = sum(failed) > max_failure_rate * len(failed)
    if too_many or is_torn(path):
        kept = (row for row in read_jsonl(path) if not (too_many and row.get("failure")))
        write_jsonl_atomic(path, kept)


def is_torn(path: Path) -> bool:
    """Whether a killed process left half a line at the end of the file."""
    if not path.exists() or not path.stat().st_size:
        return False
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def sort_rows(path: Path, places: Mapping[str, int]) -> None:
    """Orders the rows by problem and sample, without reading all of them into memory."""
    lines: list[tuple[int, int, int, int]] = []
    offset = 0
    with open(path, "rb") as file:
        for line, row in zip(file, read_jsonl(path), strict=True):
            lines.append((places[row["problem_id"]], row["sample"], offset, len(line)))
            offset += len(line)
    if (ordered := sorted(lines)) == lines:
        return
    with open(path, "rb") as file, rewriting(path) as target:
        for _, _, start, length in ordered:
            file.seek(start)
            target.write(file.read(length))


def part_path(context: StageContext, name: str) -> Path:
    """The samples of one of a stage's models, until the stage is finished."""
    return context.stage_dir.path / "parts" / f"{name}.jsonl"


@contextmanager
def joined_parts(context: StageContext) -> Iterator[None]:
    """The samples of all parts in the stage's samples.jsonl; the parts go when the block ends."""
    directory = part_path(context, "").parent
    with rewriting(context.stage_dir.samples_path) as joined:
        for part in sorted(directory.glob("*.jsonl")):
            with open(part, "rb") as file:
                shutil.copyfileobj(file, joined)
    yield
    drop_directory(directory)


@contextmanager
def rewriting(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` where the block ends, whole on the disk."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
