"""LiveCodeBench's files: windows, prompts, and rows that cannot be used."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from tests.data.tables import load_benchmark as load
from tests.data.tables import write
from vibelite.data.benchmarks import content_hash
from vibelite.data.code_rows import (
    ANSWER,
    TASK,
    WITH_STARTER_CODE,
    WITHOUT_STARTER_CODE,
    problem_from_lcb_row,
)
from vibelite.errors import DataError
from vibelite.rewards.code_problem import CodeTest, read_tests

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


def test_only_contests_of_the_window_count_its_ends_included(tmp_path: Path) -> None:
    dates = ["2025-01-31T23:59:59", "2025-02-01", "2025-03-01", "2025-05-01T14:00:00", "2025-05-02"]
    rows = [row(question_id=f"abc{n}", contest_date=date) for n, date in enumerate(dates)]
    path = write(tmp_path / "a.jsonl", rows)
    assert [problem.id for problem in load("lcb-v6", path)] == ["abc1", "abc2", "abc3"]
    assert [problem.id for problem in load("lcb-v5", path)] == ["abc0", "abc1"]
    with pytest.raises(DataError, match="no rows in the window"):
        load("lcb-v5", write(path, [row(contest_date="2024-07-31")]))


def test_the_hash_covers_the_tests(tmp_path: Path) -> None:
    first = load("lcb-v6", write(tmp_path / "a.jsonl", [row()]))
    other = load("lcb-v6", write(tmp_path / "b.jsonl", [row(private_test_cases="eJx...")]))
    assert other[0].metadata["private_test_cases"] == "eJx..."
    assert content_hash(first) != content_hash(other)


def test_a_row_that_cannot_be_used_is_named_by_file_and_line(tmp_path: Path) -> None:
    for values, message in [
        ({"public_test_cases": "["}, "public_test_cases: not valid JSON"),
        ({"public_test_cases": '[{"input": "1"}]'}, r"public_test_cases\[0\]: output is nothing"),
        ({"metadata": "[1]"}, "metadata: expected a JSON object"),
        ({"question_id": 5}, "no text in question_id; there are: question_title"),
        ({"contest_date": None}, "no contest_date, and only .* counts"),
        ({"question_id": "abc1_a"}, "id 'abc1_a' was used by .*a.jsonl:1"),
    ]:
        rows = [row(), row(question_id="abc1_b"), row(**{"question_id": "c"} | values)]
        with pytest.raises(DataError, match=f"a.jsonl:3: {message}"):
            load("lcb-v6", write(tmp_path / "a.jsonl", rows))


def test_a_directory_holds_the_files_of_all_releases_up_to_the_benchmarks(tmp_path: Path) -> None:
    names = ["test.jsonl", *(f"test{number}.jsonl" for number in range(2, 7))]
    for name in names:
        write(tmp_path / name, [row(question_id=name, contest_date="2025-02-01")])
    assert [problem.id for problem in load("lcb-v6", tmp_path)] == names
    assert [problem.id for problem in load("lcb-v5", tmp_path)] == names[:5]
    with open(tmp_path / "test4.jsonl", "a") as file:
        file.write('\n{"question_id"\n')
    with pytest.raises(DataError, match="test4.jsonl:3: not valid JSON"):
        load("lcb-v6", tmp_path)
    (tmp_path / "test3.jsonl").unlink()
    with pytest.raises(DataError, match="test3.jsonl: there is no such file"):
        load("lcb-v6", tmp_path)
    with pytest.raises(DataError, match="is a directory; aime25 is one file"):
        load("aime25", tmp_path)


def test_rows_outside_of_the_window_are_not_kept_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    old = row(contest_date="2024-01-01", private_test_cases="x" * 1_000_000)
    write(path, [*(old | {"question_id": str(number)} for number in range(50)), row()])
    tracemalloc.start()
    problems = load("lcb-v6", path)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [problem.id for problem in problems] == ["abc1_a"]
    assert peak_bytes < 10_000_000
