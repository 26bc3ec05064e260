"""`vibelite verify`: the verdict of a verifier on each row of a file, to try a reward before
training on it.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vibelite.errors import DataError, RecipeError

if TYPE_CHECKING:
    from vibelite.rewards.pool import PendingVerdict, VerifierPool
    from vibelite.types import Completion, Problem, Verdict

# Rows of a file; generated problems bring their own verifier.
KINDS = ("math", "choice", "exact", "code")
# Rows under way for each worker: enough that none of them waits.
ROWS_PER_WORKER = 4


# One line of the file: what was asked, whose id is the line's place, and what a model wrote.
Row = tuple["Problem", "Completion"]


@dataclass(frozen=True, slots=True)
class Judged:
    """One row's verdict and how long it took."""

    problem: Problem
    verdict: Verdict
    seconds: float

    @property
    def outcome(self) -> str:
        if self.verdict.failure is not None:
            return self.verdict.failure
        if self.problem.verifier == "code":
            from vibelite.rewards.code_tests import reason_of

            return reason_of(self.verdict)
        return {True: "correct", False: "wrong", None: "unverifiable"}[self.verdict.correct]


def verify(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.jsonl", help="Rows of predictions or programs.")
    ],
    custom: Annotated[
        str, typer.Option(metavar="FILE.py:FUNCTION", help="Judge every row by this function.")
    ] = "",
    seconds: Annotated[float, typer.Option(min=0.1, help="Deadline of one row of text.")] = 10.0,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 = one per processor.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per row.")] = False,
) -> None:
    """Judge each row of a file as in training.

    vibelite verify answers.jsonl --custom judge.py:score

    Rows: {"prediction", "answer", "verifier": "math" | "choice" | "exact"}, or {"code", "tests",
    "verifier": "code", "limits"}. A prediction is a whole completion: its last \\boxed{} counts,
    or, in place of "code", its last block of Python.

    Tests: {"type": "stdin", "input", "output"} or {"type": "functional", "fn_name", "input": one
    JSON value a line, "output": JSON}, with "tolerance" for numbers that need not be exact. Limits
    of a test: {"seconds", "memory_bytes", "output_bytes"}, and "total_seconds" of all.

    Exit code 1 where a verifier failed: it crashed, raised or took too long.
    """
    from vibelite.rewards.pool import VerifierPool

    rows = read_rows_to_verify(file, custom)
    started = time.perf_counter()
    judged = []
    with VerifierPool(num_workers=workers, seconds=seconds) as pool:
        for result in judge_rows(rows, pool):
            judged.append(result)
            if as_json:
                # Escaped: a model's text may hold what no encoding has, such as half a character.
                print(json.dumps(as_line(result)), flush=True)
    if not as_json:
        print(summary(file, judged, time.perf_counter() - started))
    if failures := [one for one in judged if one.verdict.failure is not None]:
        # A model's text must not steer the terminal.
        detail = ascii(failures[0].verdict.detail)[1:-1]
        typer.echo(  # after the rows, --json has no other object
            f"the verifier failed on {len(failures)} of {len(judged)} rows; the first is "
            f"{failures[0].problem.id}: {detail}",
            err=True,
        )
        raise typer.Exit(1)


def read_rows_to_verify(path: Path, custom: str) -> list[Row]:
    """The rows of the file; DataError, with the line, for one that cannot be judged."""
    from vibelite.data.tables import read_rows

    if not path.is_file():
        raise RecipeError(f"{path}: no such file")
    if path.suffix != ".jsonl":
        raise RecipeError(f"{path}: must be a .jsonl file, one row a line")
    reward = _custom_metadata(custom) if custom else {}
    rows = read_rows(path)
    return [_row(row, rows.at(index), reward) for index, row in enumerate(rows.table)]


def judge_rows(rows: list[Row], pool: VerifierPool) -> Iterator[Judged]:
    """The verdicts in the order of the rows; later rows are under way while earlier ones take
    their time.
    """
    waiting: deque[tuple[Problem, PendingVerdict]] = deque()

    def next_judged() -> Judged:
        problem, pending = waiting.popleft()
        return Judged(problem, pending.result(), pending.seconds)

    for problem, completion in rows:
        waiting.append((problem, pool.submit(problem, completion)))
        while waiting and (
            waiting[0][1].done() or len(waiting) > ROWS_PER_WORKER * pool.num_workers
        ):
            yield next_judged()
    while waiting:
        yield next_judged()


def as_line(judged: Judged) -> dict[str, Any]:
    """A row of the output of --json."""
    verdict = judged.verdict
    line: dict[str, Any] = {"correct": verdict.correct, "reason": verdict.detail}
    if judged.problem.verifier == "code" and verdict.failure is None:
        line["reason"] = judged.outcome
        if not verdict.correct:
            line["detail"] = verdict.detail
    if judged.problem.verifier == "custom":
        line["reward"] = verdict.reward
    return {**line, "seconds": round(judged.seconds, 6)}


def summary(path: Path, judged: list[Judged], wall_seconds: float) -> str:
    """Outcomes by verifier, throughput, the slowest row, and the first that was not judged."""
    if not judged:
        return f"{path}: no rows"
    lines = []
    for kind in dict.fromkeys(result.problem.verifier for result in judged):
        counts = Counter(r.outcome for r in judged if r.problem.verifier == kind)
        parts = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
        lines.append(f"{kind}: {counts.total()} rows: {parts}")
    slowest = max(judged, key=lambda result: result.seconds)
    rate = len(judged) / wall_seconds
    lines.append(f"{len(judged)} rows in {wall_seconds:.2f} s ({rate:,.0f} rows/s)")
    lines.append(f"slowest: {slowest.problem.id}, {slowest.seconds:.3f} s")
    unknown = [result for result in judged if result.verdict.correct is None]
    if unknown and unknown[0].problem.verifier != "custom":
        # A model's text must not steer the terminal.
        detail = ascii(unknown[0].verdict.detail)[1:-1]
        lines.append(f"not judged: {unknown[0].problem.id}: {detail}")
    return "\n".join(lines)


def _custom_metadata(custom: str) -> dict[str, Any]:
    from vibelite.rewards.custom import REWARD_FILE, REWARD_FUNCTION

    file, colon, function = custom.rpartition(":")
    if not (file and colon and function):
        raise RecipeError(f"--custom {custom}: must be FILE.py:FUNCTION")
    if not Path(file).is_file():
        raise RecipeError(f"--custom {file}: there is no such file")
    return {REWARD_FILE: str(Path(file).resolve()), REWARD_FUNCTION: function}


def _row(row: Any, where: str, reward: dict[str, Any]) -> Row:
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected an object, found {type(row).__name__}")
    if reward:
        answer = str(row.get("answer", ""))
        return _make_row(
            where, "custom", _text(row, "prediction", where), answer, reward | {"row": row}
        )
    from vibelite.data.rows import gold_in

    kind = row.get("verifier")
    if kind not in KINDS:
        raise DataError(f"{where}: verifier is {kind!r}; choose among {', '.join(KINDS)}")
    if kind == "code":
        return _code_row(row, where)
    prediction = _text(row, "prediction", where)
    answer = row.get("answer")
    is_number = isinstance(answer, int | float) and math.isfinite(answer)
    if isinstance(answer, bool) or not (isinstance(answer, str) or is_number):
        raise DataError(f"{where}: answer is {answer!r}; it must be a text or a number")
    answer = str(answer).strip()
    try:
        answer = gold_in(answer) if kind == "math" else answer
        _check_answer(kind, answer)
    except DataError as error:
        raise DataError(f"{where}: answer: {error}") from error
    return _make_row(where, kind, prediction, answer, {})


def _code_row(row: dict[str, Any], where: str) -> Row:
    from vibelite.rewards.code_problem import row_metadata
    from vibelite.rewards.code_tests import IS_BARE

    text = _text(row, "code" if "code" in row else "prediction", where)
    try:
        metadata = row_metadata(row.get("tests"), row.get("limits"))
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    return _make_row(where, "code", text, "", metadata | {IS_BARE: "code" in row})


def _check_answer(kind: str, answer: str) -> None:
    """DataError for an answer that no prediction could be compared with."""
    from vibelite.rewards.choice import LETTERS
    from vibelite.rewards.math_answer import check_gold

    if kind == "math":
        check_gold(answer)
    elif kind == "choice" and (len(answer) != 1 or answer not in LETTERS):
        raise DataError(f"{answer!r} is no letter of {LETTERS[0]} to {LETTERS[-1]}")


def _text(row: dict[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise DataError(f"{where}: {key} is {str(value)[:60]!r}; it must be a text")
    return value


def _make_row(where: str, kind: str, text: str, answer: str, metadata: dict[str, Any]) -> Row:
    from vibelite.types import Completion, Problem

    problem = Problem(where, "", (), answer, kind, metadata=metadata)
    return problem, Completion((), (), "stop", text)
