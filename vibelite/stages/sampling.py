"""Sampling and verifying: `draw` streams completions with their verdicts, and `collect_samples`
keeps them in a file, one row each.

A stage that was killed draws only the samples that are still missing, and they come out as they
would have without the interruption: new completions in the place of those under way, which are
mostly the long ones, would change the score.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import deque
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from vibelite.data.chat import opened_thinking, prompt_ids
from vibelite.errors import RunStopped
from vibelite.models.policy import Policy
from vibelite.recipe.stage_section import Sampling
from vibelite.rewards.answer_key import answer_key, shown_letter
from vibelite.rewards.choice import PERMUTATION, shuffled
from vibelite.rewards.failures import require_reliable
from vibelite.rollout.engine import RolloutEngine, SamplingSettings
from vibelite.run_dir import append_jsonl, read_jsonl, write_jsonl_atomic
from vibelite.stages.context import StageContext, sampling_settings
from vibelite.stages.engines import name_prompts, open_engine, opened
from vibelite.stages.window import require_room
from vibelite.types import Completion, Problem, Verdict

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
    greedy_tokens: int = 0
    """Above 0: greedy answers of at most this many tokens; `sampling` then sizes the engine."""

    @property
    def settings(self) -> SamplingSettings:
        if self.greedy_tokens:
            return SamplingSettings(self.num_samples, self.greedy_tokens, temperature=0.0)
        return sampling_settings(self.sampling, self.num_samples)


@dataclass(frozen=True, slots=True)
class Wanted:
    """`settings.num_completions` samples of every problem, but for the (place, sample) that are
    `done`; `place` counts the problems.
    """

    problems: Sequence[Problem]
    settings: SamplingSettings
    seed: int
    done: Collection[tuple[int, int]] = ()


@dataclass(frozen=True, slots=True)
class Drawn:
    """Sample number `sample` of the problem at `place`: what the model read and wrote."""

    place: int
    sample: int
    problem: Problem
    prompt_ids: tuple[int, ...]
    completion: Completion
    verdict: Future[Verdict]


def draw(
    wanted: Wanted, engine: RolloutEngine, policy: Policy, context: StageContext
) -> Generator[Drawn, None, None]:
    """The samples as they end; counts tokens and time. Each is verified while others are drawn.

    The options of a multiple choice that the caller has not shuffled stand in another order for
    every sample, so that each has a prompt of its own.
    """
    problems, seed, meter = wanted.problems, wanted.seed, context.meter
    num_samples = per_prompt = wanted.settings.num_completions
    if any(is_unshuffled_choice(problem) for problem in problems):
        per_prompt = 1
        problems = [shuffled(problem, seed, n) for problem in problems for n in range(num_samples)]
    context.recorder.expect_completions(len(problems) * per_prompt - len(wanted.done))
    name_prompts(engine, [problem.id for problem in problems])
    settings = replace(wanted.settings, num_completions=per_prompt)
    skip = {divmod(place * num_samples + sample, per_prompt) for place, sample in wanted.done}
    started: set[int] = set()
    with meter.span("rollout"):
        prompts = [
            tuple(prompt_ids(policy.tokenizer, p.messages, context.recipe.data, row=p.id))
            for p in problems
        ]
        require_room(policy.model.config, problems, prompts, settings.max_new_tokens)
        openings = [opened_thinking(policy.tokenizer, prompt) for prompt in prompts]
        for prompt, number, completion in engine.stream(prompts, settings, seed=seed, skip=skip):
            # Judged and kept as if the model had opened the thinking that the prompt opens.
            completion = replace(completion, text=openings[prompt] + completion.text)
            num_read = 0 if prompt in started else len(prompts[prompt])
            started.add(prompt)
            meter.add_tokens(prompt=num_read, generated=len(completion.token_ids))
            with meter.span("verify"):
                verdict = context.verifiers.submit(problems[prompt], completion)
            place, sample = divmod(prompt * per_prompt + number, num_samples)
            yield Drawn(place, sample, problems[prompt], prompts[prompt], completion, verdict)


def is_unshuffled_choice(problem: Problem) -> bool:
    """Whether its options stand in the order of its file."""
    return problem.verifier == "choice" and PERMUTATION not in problem.metadata


def collect_samples(
    request: SampleRequest, path: Path, context: StageContext, labels: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Every sample without its texts, problem by problem; `path` holds them whole, in that order.

    Samples that `path` already has are kept, and only the others are drawn. `labels` become part
    of every row. Raises RunStopped, with all that ended on disk, when the run is asked to stop,
    and VibeLiteError where the verifier fails more often than the recipe allows.
    """
    repair(path)
    forget_failures(path, context.recipe.verification.max_failure_rate)
    places = {problem.id: place for place, problem in enumerate(request.problems)}
    done = {(places[row["problem_id"]], row["sample"]) for row in read_jsonl(path)}
    if len(done) < len(request.problems) * request.num_samples:
        draw_missing(request, done, path, context, labels)
    if done or request.problems:
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
    """Appends the samples that are not `done`, each as soon as its verdict is there."""
    recorder, num_done = context.recorder, len(done)
    total = len(request.problems) * request.num_samples
    noted = time.monotonic()
    with closing(draw_rows(request, done, context)) as rows:
        try:
            for row in rows:
                append_jsonl(path, [{**labels, **row}])
                num_done += 1
                if time.monotonic() - noted > SECONDS_PER_NOTE:
                    recorder.record_work("sample", samples=f"{num_done}/{total}", **labels)
                    noted = time.monotonic()
                if reason := recorder.reason_to_stop():
                    raise reason
                recorder.check_deadline()
        except RunStopped:
            recorder.record_work("sample", samples=f"{num_done}/{total}", **labels)
            raise


def draw_rows(
    request: SampleRequest, done: set[tuple[int, int]], context: StageContext
) -> Generator[dict[str, Any], None, None]:
    """Loads the model, and yields the rows of all samples but `done` as their verdicts come."""
    policy, engine = open_engine(request.model, request.sampling, context)
    wanted = Wanted(request.problems, request.settings, request.seed, done)
    drawing = draw(wanted, engine, policy, context)
    verdicts: list[Verdict] = []
    waiting: deque[Drawn] = deque()
    with opened(engine, context), closing(drawing):
        for drawn in drawing:
            waiting.append(drawn)
            while waiting and waiting[0].verdict.done():
                first = waiting.popleft()
                verdicts.append(first.verdict.result())
                yield sample_row(first, verdicts[-1])
        for drawn in waiting:
            with context.meter.span("verify"):
                verdicts.append(drawn.verdict.result())
            yield sample_row(drawn, verdicts[-1])
    require_reliable(verdicts, context.recipe.verification.max_failure_rate)


def verified_row(problem: Problem, completion: Completion, verdict: Verdict) -> dict[str, Any]:
    """One completion in any stage's samples.jsonl. A shuffled multiple choice adds the right letter
    and the order of the options.
    """
    row = {
        "problem_id": problem.id,
        "subdomain": problem.subdomain,
        "prompt": problem.messages[-1]["content"],
        "completion": completion.text,
        "reward": verdict.reward,
        "correct": verdict.correct,
        "detail": verdict.detail,
        "num_tokens": len(completion.token_ids),
        "finish_reason": completion.finish_reason,
    }
    if verdict.failure:
        row["failure"] = verdict.failure
    if PERMUTATION in problem.metadata:
        row["right_letter"] = problem.answer
        row[PERMUTATION] = problem.metadata[PERMUTATION]
    return row


def sample_row(drawn: Drawn, verdict: Verdict) -> dict[str, Any]:
    """`verified_row` with the sample's number and what a vote needs."""
    problem = drawn.problem
    row = verified_row(problem, drawn.completion, verdict) | {"sample": drawn.sample}
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
    with open(path, "rb") as file, rewriting(path) as target:
        for _, _, start, length in ordered:
            file.seek(start)
            target.write(file.read(length))


def join_files(parts: Sequence[Path], target: Path) -> None:
    """Writes the parts one after the other to `target`, whole or not at all."""
    with rewriting(target) as joined:
        for part in parts:
            with open(part, "rb") as file:
                shutil.copyfileobj(file, joined)


@contextmanager
def rewriting(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` where the block ends, whole on the disk."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
