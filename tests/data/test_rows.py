"""Programming problems from a user's own table, and from LiveCodeBench's columns in it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data import tables
from tests.data.tables import write
from vibelite.errors import DataError
from vibelite.rewards.code_problem import CodeTest, read_tests
from vibelite.rewards.sandbox import Limits
from vibelite.types import Problem

STDIN = {"type": "stdin", "input": "1", "output": "2"}
FUNCTION = {"type": "functional", "fn_name": "f", "input": "1", "output": "2"}


def load(path: Path, **values: Any) -> list[Problem]:
    return tables.load(path, verifier="code", **values)


def test_tests_are_a_list_or_its_text_in_the_column_that_is_named(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "checks": [STDIN, FUNCTION], "limits": {"seconds": 1}},
        {"prompt": "b", "checks": json.dumps([FUNCTION])},
    ]
    path = write(tmp_path / "a.jsonl", rows)
    first, second = load(path, columns={"tests": "checks"})
    assert read_tests(first).tests == (CodeTest("1", "2"), CodeTest("1", "2", "f"))
    assert read_tests(first).limits == Limits(1)
    assert read_tests(second).tests == (CodeTest("1", "2", "f"),)
    assert (first.answer, first.verifier) == ("", "code")


def test_a_parquet_table_may_hold_lists_of_structs(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "tests": [STDIN, FUNCTION], "limits": {"seconds": 2.0}},
        {"prompt": "b", "tests": [STDIN], "limits": None},
    ]
    path = write(tmp_path / "a.parquet", rows)
    first, second = load(path)
    assert read_tests(first).tests == (CodeTest("1", "2"), CodeTest("1", "2", "f"))
    assert read_tests(first).limits == Limits(2.0)
    assert read_tests(second).tests == (CodeTest("1", "2"),)
    write(path, [*rows, {"prompt": "c", "tests": []}])
    with pytest.raises(DataError, match="a.parquet: row 3: tests: expected a list of at least one"):
        load(path)


def test_livecodebenchs_columns_need_no_mapping_but_of_the_prompt(tmp_path: Path) -> None:
    tests = json.dumps([{"input": "1", "output": "2", "testtype": "functional"}])
    row = {
        "question_content": "Find f.",
        "public_test_cases": tests,
        "private_test_cases": tests,
        "metadata": json.dumps({"func_name": "f"}),
    }
    path = write(tmp_path / "a.jsonl", [row])
    (problem,) = load(path, columns={"prompt": "question_content"})
    assert read_tests(problem).tests == (CodeTest("1", "2", "f"),) * 2
    assert read_tests(problem).has_imports
    write(path, [row, row | {"public_test_cases": "["}])
    with pytest.raises(DataError, match="a.jsonl:2: public_test_cases: not valid JSON"):
        load(path, columns={"prompt": "question_content"})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "no column 'tests'; where 'tests' was looked for there is: prompt"),
        ({"tests": None}, "tests: expected a list of at least one test, found nothing"),
        ({"tests": "5"}, "tests: expected a list of at least one test, found int '5'"),
        ({"tests": [STDIN, {}]}, r"tests\[1\]: type is None; choose stdin or functional"),
        ({"tests": [{**FUNCTION, "input": "x"}]}, r"tests\[0\]: line 1 of input: not valid JSON"),
        ({"tests": [STDIN], "limits": {"time": 1}}, "limits: unknown time; there are: seconds"),
        ({"public_test_cases": "[]"}, "no column 'tests'"),
    ],
)
def test_a_row_without_usable_tests_is_named_by_its_line(
    row: dict[str, Any], message: str, tmp_path: Path
) -> None:
    rows = [{"prompt": "a", "tests": [STDIN]}, {"prompt": "b", **row}]
    with pytest.raises(DataError, match=f"^[^:]*a.jsonl:2: {message}"):
        load(write(tmp_path / "a.jsonl", rows))
