"""The samples of one model on one benchmark, in a file that grows as completions end.

An evaluation that was killed goes on with the samples that are still missing, and they come out as
they would have without the interruption: redrawing whatever was under way would replace long
completions by shorter ones more often than not, and so change the score.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vibelite.data.chat import prompt_ids
from vibelite.errors import RunStopped
from vibelite.models.load import load_policy
from vibelite.recipe.stage_section import Sampling
from vibelite.rewards.answer_key import answer_key
from vibelite.rewards.verifier import verify
from vibelite.run_dir import append_jsonl, read_jsonl, write_jsonl_atomic
from vibelite.stages.context import StageContext, build_engine, sampling_settings
from vibelite.stages.rollout import sample_rows
from vibelite.types import Group, Problem

# What is not needed to compute a result; a benchmark's texts may exceed memory.
TEXTS = ("prompt", "completion")
# Verifiers that judge more than one answer, so that there is no majority.
WITHOUT_ANSWER = ("code", "custom")
# Between two lines of the ledger, which are progress on the console: what a killed process spent
# since the last one is not accounted for.
SECONDS_PER_NOTE = 60


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """`num_samples` completions of every problem by the model in the directory `model`."""

    model: Path
    problems: Sequence[Problem]
    sampling: Sampling
    num_samples: int
    seed: int


def collect_samples(
    request: SampleRequest, path: Path, context: StageContext, labels: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Every sample without its texts, problem by problem; `path` holds them whole, in that order.

    Samples that `path` already has are kept, and only the others are drawn. `labels` become part
    of every row.
    """
    repair(path)
    places = {problem.id: place for place, problem in enumerate(request.problems)}
    done = {(places[row["problem_id"]], row["sample"]) for row in read_jsonl(path)}
    if len(done) < len(request.problems) * request.num_samples:
        draw_missing(request, done, path, context, labels)
    sort_rows(path, places)
    return [
        {key: value for key, value in row.items() if key not in TEXTS} for row in read_jsonl(path)
    ]


def draw_missing(
    request: SampleRequest,
    done: set[tuple[int, int]],
    path: Path,
    context: StageContext,
    labels: Mapping[str, str],
) -> None:
    """Appends the samples that are not `done`. Raises RunStopped, with all that ended on disk, when
    the run is asked to stop.
    """
    recorder, num_done = context.recorder, len(done)
    total = len(request.problems) * request.num_samples
    noted = time.monotonic()
    with closing(draw_samples(request, done, context)) as rows:
        try:
            for row in rows:
                append_jsonl(path, [{**labels, **row}])
                num_done += 1
                if time.monotonic() - noted > SECONDS_PER_NOTE:
                    recorder.record_work("evaluate", samples=f"{num_done}/{total}", **labels)
                    noted = time.monotonic()
                if reason := recorder.reason_to_stop():
                    raise reason
                recorder.check_deadline()
        except RunStopped:
            recorder.record_work("evaluate", samples=f"{num_done}/{total}", **labels)
            raise


def draw_samples(
    request: SampleRequest, done: set[tuple[int, int]], context: StageContext
) -> Generator[dict[str, Any], None, None]:
    """The rows of all samples but `done`, as they end; counts tokens and time."""
    meter = context.meter
    with meter.span("load"):
        policy = load_policy(request.model)
    engine = build_engine(context.recipe, policy, request.sampling)
    prompts = [
        prompt_ids(policy.tokenizer, problem.messages, context.recipe.data.system_prompt)
        for problem in request.problems
    ]
    settings = sampling_settings(request.sampling, request.num_samples)
    started: set[int] = set()
    with meter.span("rollout"):
        for place, sample, completion in engine.stream(
            prompts, settings, seed=request.seed, skip=done
        ):
            num_read = 0 if place in started else len(prompts[place])
            started.add(place)
            meter.add_tokens(prompt=num_read, generated=len(completion.token_ids))
            problem = request.problems[place]
            with meter.span("verify"):
                verdict = verify(problem, completion)
                answer = answer_key(problem, completion)
            group = Group(problem, tuple(prompts[place]), (completion,), (verdict,))
            (row,) = sample_rows([group])
            comparable = {} if problem.verifier in WITHOUT_ANSWER else {"answer": answer}
            yield {**row, "sample": sample, **comparable}
    engine.close()


def repair(path: Path) -> None:
    """Drops a torn last line, which the next row would be appended to."""
    if path.exists() and path.stat().st_size:
        with open(path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            is_torn = file.read(1) != b"\n"
        if is_torn:
            write_jsonl_atomic(path, list(read_jsonl(path)))


def sort_rows(path: Path, places: Mapping[str, int]) -> None:
    """Orders the rows by problem and sample, without reading all of them into memory."""
    lines: list[tuple[int, int, int, int]] = []
    offset = 0
    with open(path, "rb") as file:
        for line, row in zip(file, read_jsonl(path), strict=True):
            lines.append((places[row["problem_id"]], row["sample"], offset, len(line)))
            offset += len(line)
    ordered = sorted(lines)
    if ordered == lines:
        return
    temporary = path.with_name(f".{path.name}.tmp")
    with open(path, "rb") as file, open(temporary, "wb") as target:
        for _, _, start, length in ordered:
            file.seek(start)
            target.write(file.read(length))
        target.flush()
        os.fsync(target.fileno())
    os.replace(temporary, path)
