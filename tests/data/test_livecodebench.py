"""LiveCodeBench's files: windows, prompts, and rows that cannot be used."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from vibelite.data.code_rows import (
    ANSWER,
    TASK,
    WITH_STARTER_CODE,
    WITHOUT_STARTER_CODE,
    is_in_window,
    problem_from_lcb_row,
)
from vibelite.data.sources import load_problems
from vibelite.errors import DataError
from vibelite.recipe.data_section import BenchmarkProblems
from vibelite.rewards.code_problem import CodeTest, read_tests
from vibelite.types import Problem

WINDOW = ("2025-02-01", "2025-05-01")
TESTS = json.dumps([{"input": "1\n", "output": "2\n", "testtype": "stdin"}])


def row(**values: Any) -> dict[str, Any]:
    return {
        "question_title": "Next",
        "question_content": "Print the next number.",
        "platform": "atcoder",
        "question_id": "abc1_a",
        "contest_date": "2025-03-01T00:00:00",
        "starter_code": "",
        "difficulty": "hard",
        "public_test_cases": TESTS,
        "private_test_cases": TESTS,
        "metadata": "{}",
    } | values


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def load(path: Path) -> list[Problem]:
    values = {"source": "benchmark", "name": "lcb-v6", "path": str(path)}
    source = BenchmarkProblems.model_validate(values)
    return load_problems(source, recipe_dir=Path.cwd(), seed=0)


def test_the_prompt_is_the_benchmarks_to_the_letter() -> None:
    problem = problem_from_lcb_row(row(), "x")
    assert problem.messages == (
        {
            "role": "user",
            "content": f"{TASK}\n\n### Question:\nPrint the next number.\n\n"
            f"### Format: {WITHOUT_STARTER_CODE}\n```python\n# YOUR CODE HERE\n```\n\n{ANSWER}",
        },
    )
    starter = "class Solution:\n    def next(self, n: int) -> int:\n        "
    with_starter = problem_from_lcb_row(row(starter_code=starter), "x").messages[0]["content"]
    assert f"### Format: {WITH_STARTER_CODE}\n```python\n{starter}\n```\n\n" in with_starter


def test_a_problem_has_its_difficulty_and_its_tests() -> None:
    problem = problem_from_lcb_row(row(), "x")
    assert (problem.id, problem.subdomain, problem.verifier) == ("abc1_a", "hard", "code")
    assert read_tests(problem).tests == (CodeTest("1\n", "2\n"), CodeTest("1\n", "2\n"))
    assert problem_from_lcb_row(row(difficulty=None), "x").subdomain == "all"


@pytest.mark.parametrize(
    ("date", "is_in"),
    [
        ("2025-01-31T23:59:59", False),
        ("2025-02-01T00:00:00", True),
        ("2025-05-01T14:00:00", True),
        ("2025-05-02", False),
    ],
)
def test_both_days_at_the_windows_ends_count(date: str, is_in: bool) -> None:
    assert is_in_window(row(contest_date=date), WINDOW, "x") is is_in


def test_a_row_that_cannot_be_used_is_named_by_file_and_line(tmp_path: Path) -> None:
    for values, message in [
        ({"public_test_cases": "["}, "public_test_cases: not valid JSON"),
        ({"public_test_cases": '[{"input": "1"}]'}, r"public_test_cases\[0\]: output is nothing"),
        ({"metadata": "[1]"}, "metadata: expected a JSON object"),
        ({"question_id": 5}, "no text in question_id; there are: question_title"),
        ({"contest_date": None}, "no contest_date, and only contests of"),
        ({"question_id": "abc1_a"}, "id 'abc1_a' was used by .*a.jsonl:1"),
    ]:
        rows = [row(), row(question_id="abc1_b"), row(**{"question_id": "c"} | values)]
        with pytest.raises(DataError, match=f"a.jsonl:3: {message}"):
            load(write(tmp_path / "a.jsonl", rows))


def test_a_line_of_a_directorys_file_is_named(tmp_path: Path) -> None:
    for name in ["test.jsonl", *(f"test{number}.jsonl" for number in range(2, 7))]:
        write(tmp_path / name, [row(question_id=name)])
    assert len(load(tmp_path)) == 6
    with open(tmp_path / "test4.jsonl", "a") as file:
        file.write('\n{"question_id"\n')
    with pytest.raises(DataError, match="test4.jsonl:3: not valid JSON"):
        load(tmp_path)


def test_rows_outside_of_the_window_are_not_kept_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    old = row(contest_date="2024-01-01", private_test_cases="x" * 1_000_000)
    with open(path, "w") as file:
        for number in range(50):
            file.write(json.dumps(old | {"question_id": str(number)}) + "\n")
        file.write(json.dumps(row()) + "\n")
    tracemalloc.start()
    problems = load(path)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [problem.id for problem in problems] == ["abc1_a"]
    assert peak_bytes < 10_000_000
