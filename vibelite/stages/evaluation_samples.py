"""The samples of one model on one benchmark, in a file that grows as completions end.

An evaluation that was killed goes on with the samples that are still missing, and they come out as
they would have without the interruption: redrawing whatever was under way would replace long
completions by shorter ones more often than not, and so change the score.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vibelite.data.chat import prompt_ids
from vibelite.errors import RunStopped
from vibelite.models.policy import Policy
from vibelite.recipe.stage_section import Sampling
from vibelite.rewards.answer_key import answer_key, shown_letter
from vibelite.rewards.choice import shuffled
from vibelite.rewards.failures import require_reliable
from vibelite.rollout.engine import RolloutEngine
from vibelite.run_dir import append_jsonl, read_jsonl, write_jsonl_atomic
from vibelite.stages.context import StageContext, sampling_settings
from vibelite.stages.rollout import sample_rows
from vibelite.stages.sharing import open_engine, opened
from vibelite.types import Completion, Group, Problem, Verdict

# What is not needed to compute a result; a benchmark's texts may exceed memory.
TEXTS = ("prompt", "completion")
# Verifiers that judge more than one answer, so that there is no majority.
WITHOUT_ANSWER = ("code", "instruct", "custom")
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


@dataclass(frozen=True, slots=True)
class Drawn:
    """Sample number `sample` of a problem, as it was put to the model."""

    problem: Problem
    sample: int
    completion: Completion


def collect_samples(
    request: SampleRequest, path: Path, context: StageContext, labels: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Every sample without its texts, problem by problem; `path` holds them whole, in that order.

    Samples that `path` already has are kept, and only the others are drawn. `labels` become part
    of every row.
    """
    repair(path)
    forget_failures(path, context.recipe.verification.max_failure_rate)
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
    recorder.expect_completions(total - num_done)
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
    """The rows of all samples but `done`, as their verdicts come; counts tokens and time.

    Raises VibeLiteError where the verifier fails more often than the recipe allows.
    """
    meter = context.meter
    policy, engine = open_engine(request.model, request.sampling, context)
    drawing = draw_completions(request, done, context, policy, engine)
    verdicts: list[Verdict] = []
    waiting: deque[tuple[Drawn, Future[Verdict]]] = deque()
    with opened(engine, context), closing(drawing):
        for drawn in drawing:
            waiting.append((drawn, context.verifiers.submit(drawn.problem, drawn.completion)))
            while waiting and waiting[0][1].done():
                first, future = waiting.popleft()
                verdicts.append(future.result())
                yield sample_row(first, verdicts[-1])
        for drawn, future in waiting:
            with meter.span("verify"):
                verdicts.append(future.result())
            yield sample_row(drawn, verdicts[-1])
    require_reliable(verdicts, context.recipe.verification.max_failure_rate)


def draw_completions(
    request: SampleRequest,
    done: set[tuple[int, int]],
    context: StageContext,
    policy: Policy,
    engine: RolloutEngine,
) -> Generator[Drawn, None, None]:
    """The completions of all samples but `done`, as they end. The options of a multiple choice
    stand in another order for every sample, so that each has a prompt of its own.
    """
    problems, num_samples, per_prompt = request.problems, request.num_samples, request.num_samples
    if any(problem.verifier == "choice" for problem in problems):
        per_prompt = 1
        problems = [
            shuffled(problem, request.seed, sample)
            for problem in problems
            for sample in range(num_samples)
        ]
    prompts = [
        prompt_ids(policy.tokenizer, problem.messages, context.recipe.data.system_prompt)
        for problem in problems
    ]
    skip = {divmod(place * num_samples + sample, per_prompt) for place, sample in done}
    settings = sampling_settings(request.sampling, per_prompt)
    started: set[int] = set()
    with context.meter.span("rollout"):
        for prompt, number, completion in engine.stream(
            prompts, settings, seed=request.seed, skip=skip
        ):
            num_read = 0 if prompt in started else len(prompts[prompt])
            started.add(prompt)
            context.meter.add_tokens(prompt=num_read, generated=len(completion.token_ids))
            sample = (prompt * per_prompt + number) % num_samples
            yield Drawn(problems[prompt], sample, completion)


def sample_row(drawn: Drawn, verdict: Verdict) -> dict[str, Any]:
    """What is kept of a sample: the row of every stage's samples.jsonl, and what a vote needs."""
    problem = drawn.problem
    (row,) = sample_rows([Group(problem, (), (drawn.completion,), (verdict,))])
    row["sample"] = drawn.sample
    if problem.verifier not in WITHOUT_ANSWER:
        row["answer"] = answer_key(problem, drawn.completion)
    if problem.verifier == "choice":
        row["letter"] = shown_letter(drawn.completion)
    return row


def repair(path: Path) -> None:
    """Drops a torn last line, which the next row would be appended to."""
    if path.exists() and path.stat().st_size:
        with open(path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            is_torn = file.read(1) != b"\n"
        if is_torn:
            write_jsonl_atomic(path, list(read_jsonl(path)))


def forget_failures(path: Path, max_failure_rate: float) -> None:
    """Drops the samples that the verifier failed on, where these are too many: an earlier call
    stopped because of them, and once the cause is mended they are to be verified.
    """
    failed = [bool(row.get("failure")) for row in read_jsonl(path)]
    if sum(failed) > max_failure_rate * len(failed):
        write_jsonl_atomic(path, [row for row in read_jsonl(path) if not row.get("failure")])


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
