"""The benchmarks of the VibeThinker report: where they are, how the report samples them, and their
problems. Copies of one differ in wording, so `content_hash` is printed with every score.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from vibelite.data.rows import located, problem_from_row
from vibelite.data.tables import Rows, read_rows, stream_jsonl
from vibelite.errors import DataError
from vibelite.recipe.data_section import BenchmarkProblems, Columns, ProblemSource, ProblemTable
from vibelite.rewards.code_problem import PRIVATE_TESTS, PUBLIC_TESTS, lcb_metadata
from vibelite.run_dir import derive_seed
from vibelite.types import Problem

# As in the files of the report's evaluation repository.
MATH_FORMAT = "Let's think step by step and output the final answer within \\boxed{}."
CHOICE_FORMAT = (
    "Please reason step-by-step and put your choice letter without any other text with \\boxed{} "
    "in the end."
)
LETTERS = "ABCD"
# Columns of the files of the report's evaluation repository.
REPORT_COLUMNS = Columns(prompt="prompt", answer="reward_model.ground_truth")
GPQA_OPTIONS = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
# Files of LiveCodeBench, each with what its release added.
LCB_FILES = ("test.jsonl", *(f"test{number}.jsonl" for number in range(2, 7)))
# The words of LiveCodeBench's generic prompt: scores with another one are not comparable.
TASK = (
    "You are an expert Python programmer. You will be given a question (problem specification) and "
    "will generate a correct Python program that matches the specification and passes all tests."
)
WITH_STARTER_CODE = (
    "You will use the following starter code to write the solution to the problem and enclose your "
    "code within delimiters."
)
WITHOUT_STARTER_CODE = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly "
    "test on the sample inputs). Enclose your code within delimiters as follows. Ensure that when "
    "the python program runs, it reads the inputs, runs the algorithm and writes output to STDOUT."
)
NO_CODE = "# YOUR CODE HERE"
ANSWER = "### Answer: (use the provided format with backticks)\n\n"
TEXT_COLUMNS = ("question_id", "question_content", PUBLIC_TESTS, PRIVATE_TESTS)
# Scores that others published, to print beside a run's own. Percent, Pass@1; None, and what lacks
# at a row's end, = not reported.
PUBLISHED_IN = (
    "VibeThinker-1.5B report (arXiv 2511.06221), tables 2 and 3; VibeThinker-3B and SmolLM3-3B: "
    "VibeThinker-3B report (arXiv 2606.16140), table 1"
)
_PUBLISHED_FOR = (
    *("aime24", "aime25", "hmmt25", "math500", "lcb-v5", "lcb-v6", "gpqa"),
    *("aime26", "brumo25"),
)
_PUBLISHED: dict[str, tuple[float | None, ...]] = {
    "Qwen2.5-Math-1.5B (base)": (6.7, 4.3, 0.6, 58.5, 0.0, 0.0, 16.4),
    "VibeThinker-1.5B": (80.3, 74.4, 50.4, 95.0, 55.9, 51.1, 46.7),
    "DeepSeek-R1-Distill-Qwen-1.5B": (28.5, 22.7, 13.6, 82.9, 16.8, 12.8, 15.9),
    "Qwen3-1.7B": (48.3, 36.8, 23.6, 93.4, 33.2, 26.9, 40.1),
    "DeepSeek-R1-0120": (79.8, 70.0, 41.7, None, 65.9, None, 71.5),
    "VibeThinker-3B": (None, 91.4, 89.3, None, None, 80.2, 70.2, 94.3, 93.8),
    "SmolLM3-3B": (None, 36.7, 26.0, None, None, 29.1, 41.7, 41.0, 49.2),
}


@dataclass(frozen=True, slots=True)
class Benchmark:
    """How the report samples a benchmark (report 4.1 and its evaluation scripts). `num_problems` is
    official; contests count from the first to the last day of `window`; `release` of LCB_FILES.
    """

    title: str
    kind: Literal["math", "choice", "code"]
    num_problems: int
    hub: str
    split: str
    config: str | None = None
    num_samples: int = 64
    temperature: float = 1.0
    top_p: float = 0.95
    max_new_tokens: int = 40_960
    window: tuple[str, str] | None = None
    release: int = 0


_LIVE_CODE_BENCH = partial(
    Benchmark,
    kind="code",
    hub="lighteval/code_generation_lite",
    split="test",
    num_samples=8,
    temperature=0.6,
)
BENCHMARKS = {
    "aime24": Benchmark("AIME 2024", "math", 30, "HuggingFaceH4/aime_2024", "train"),
    "aime25": Benchmark("AIME 2025", "math", 30, "math-ai/aime25", "test"),
    "aime26": Benchmark("AIME 2026", "math", 30, "MathArena/aime_2026", "train"),
    "hmmt25": Benchmark("HMMT February 2025", "math", 30, "MathArena/hmmt_feb_2025", "train"),
    "brumo25": Benchmark("BruMO 2025", "math", 30, "MathArena/brumo_2025", "train"),
    "math500": Benchmark("MATH-500", "math", 500, "HuggingFaceH4/MATH-500", "test"),
    # The report leaves GPQA's temperature open; its script has 1.0.
    "gpqa": Benchmark(
        "GPQA-Diamond", "choice", 198, "Idavidrein/gpqa", "train", "gpqa_diamond", num_samples=16
    ),
    "lcb-v5": _LIVE_CODE_BENCH(
        "LiveCodeBench v5", num_problems=279, release=5, window=("2024-08-01", "2025-02-01")
    ),
    "lcb-v6": _LIVE_CODE_BENCH(
        "LiveCodeBench v6", num_problems=131, release=6, window=("2025-02-01", "2025-05-01")
    ),
}
REVISIONS = {
    "aime24": "2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
    "aime25": "563bb8404243c5f09de6ec262f2db674fe5bce9b",
    "math500": "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
}


def hub_source(source: BenchmarkProblems) -> ProblemTable:
    """Where the benchmark is on the hub."""
    benchmark = BENCHMARKS[source.name]
    return ProblemTable(
        source="hub",
        path=benchmark.hub,
        config=f"release_v{benchmark.release}" if benchmark.release else benchmark.config,
        split=benchmark.split,
        revision=REVISIONS.get(source.name, "main"),
    )


def read_file(source: BenchmarkProblems, recipe_dir: Path) -> Rows:
    """The rows of the benchmark's local file, or of the directory of LiveCodeBench's files."""
    benchmark = BENCHMARKS[source.name]
    path = recipe_dir / Path(source.path).expanduser()
    if benchmark.release and path.suffix == ".jsonl":
        return stream_jsonl(str(path), [path])
    if not path.is_dir():
        return read_rows(path)
    if not benchmark.release:
        raise DataError(f"{path}: is a directory; {source.name} is one file")
    return stream_jsonl(str(path), [path / name for name in LCB_FILES[: benchmark.release]])


def problems_from_rows(source: BenchmarkProblems, rows: Rows, *, seed: int) -> list[Problem]:
    """The problems, in order, of rows in the columns of the report's repository or of the hub; the
    seed chooses those that a limit leaves.

    Raises DataError for other columns, an id that occurs twice, and no row in the window.
    """
    benchmark = BENCHMARKS[source.name]
    problems, places = [], {}
    for index, row in enumerate(rows.table):
        where = rows.at(index)
        if not isinstance(row, dict):
            raise DataError(f"{where}: expected an object, found {type(row).__name__}")
        if benchmark.window and len(date := str(row.get("contest_date", ""))[:10]) != 10:
            raise DataError(f"{where}: no contest_date, and only {benchmark.window} counts")
        if not benchmark.window or benchmark.window[0] <= date <= benchmark.window[1]:
            problem = _problem(source.name, benchmark, row, rows, index)
            if (first := places.setdefault(problem.id, where)) != where:
                raise DataError(f"{where}: id {problem.id!r} was used by {first}")
            problems.append(problem)
    if not problems:
        raise DataError(f"{rows.name}: no rows" + (" in the window" if benchmark.window else ""))
    limit = source.num_problems or len(problems)
    places = range(len(problems))
    chosen = sorted(places, key=lambda place: derive_seed(seed, "sample", place))[:limit]
    return [problems[place] for place in sorted(chosen)]


def problem_from_lcb_row(row: dict[str, Any], where: str) -> Problem:
    """The problem of one row; sub-domains are the difficulties. Raises DataError for missing
    columns and public tests that cannot be run.
    """
    missing = [name for name in TEXT_COLUMNS if not isinstance(row.get(name), str)]
    if missing:
        there = ", ".join(map(str, row))
        raise DataError(f"{where}: no text in {', '.join(missing)}; there are: {there}")
    with located(where):
        metadata = lcb_metadata(row)
    starter = row.get("starter_code") or ""
    task = WITH_STARTER_CODE if starter else WITHOUT_STARTER_CODE
    content = (
        f"{TASK}\n\n### Question:\n{row['question_content']}\n\n"
        f"### Format: {task}\n```python\n{starter or NO_CODE}\n```\n\n{ANSWER}"
    )
    return Problem(
        id=row["question_id"],
        subdomain=str(row.get("difficulty") or "all"),
        messages=({"role": "user", "content": content},),
        answer="",
        verifier="code",
        metadata=metadata,
    )


def describe_benchmark(source: ProblemSource, problems: Sequence[Problem]) -> dict[str, Any]:
    """What a score was measured on; of a benchmark also the scores that others published on it."""
    data: dict[str, Any] = {"sha256": content_hash(problems), "num_problems": len(problems)}
    if not isinstance(source, BenchmarkProblems):
        return {"data": data}
    benchmark = BENCHMARKS[source.name]
    data |= {
        "name": benchmark.title,
        "official_num_problems": benchmark.num_problems,
        "window": list(benchmark.window) if benchmark.window else None,
        "from": Path(source.path).name or f"{benchmark.hub}@{hub_source(source).revision}",
    }
    column = _PUBLISHED_FOR.index(source.name)
    scores = {
        model: round(score / 100, 4)
        for model, row in _PUBLISHED.items()
        if column < len(row) and (score := row[column]) is not None
    }
    note = "; its options in one order, shuffled for every sample here"
    published_in = PUBLISHED_IN + (note if benchmark.kind == "choice" else "")
    return {"data": data, "published": {"source": published_in, "pass_at_1": scores}}


def content_hash(problems: Sequence[Problem]) -> str:
    """SHA-256 over ids, messages and answers, of programs over their tests."""
    digest = hashlib.sha256()
    for problem in problems:
        gold = problem.metadata if problem.verifier == "code" else problem.answer
        digest.update(json.dumps([problem.id, problem.messages, gold]).encode())
    return digest.hexdigest()


def _problem(
    name: str, benchmark: Benchmark, row: dict[str, Any], rows: Rows, index: int
) -> Problem:
    if benchmark.kind == "code":
        return problem_from_lcb_row(row, rows.at(index))
    if benchmark.kind == "choice" and GPQA_OPTIONS[0] in row:
        row = _gpqa_row(row, rows.at(index))
    elif benchmark.kind == "math" and isinstance(row.get("problem"), str):
        content = f"{row['problem'].strip()} {MATH_FORMAT}"
        row = {"prompt": content, "reward_model": {"ground_truth": row.get("answer")}}
    source = ProblemTable(source="file", path=name, columns=REPORT_COLUMNS, verifier=benchmark.kind)
    problem = problem_from_row(row, source, rows, index)
    return replace(problem, id=f"{name}/{index}")


def _gpqa_row(row: dict[str, Any], where: str) -> dict[str, Any]:
    """A row of the hub in the form of the report's file: the right option is A, until shuffled."""
    missing = [name for name in ("Question", *GPQA_OPTIONS) if not isinstance(row.get(name), str)]
    if missing:
        raise DataError(f"{where}: no text in {', '.join(missing)}")
    options = [
        f"{letter}. {row[name].strip()}" for letter, name in zip(LETTERS, GPQA_OPTIONS, strict=True)
    ]
    content = "\n".join([f"{row['Question'].strip()}\n", *options, f"\n{CHOICE_FORMAT}"])
    return {"prompt": content, "reward_model": {"ground_truth": LETTERS[0]}}
