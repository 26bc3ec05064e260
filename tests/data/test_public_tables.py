"""The columns of public data sets: which rows are taken, and what becomes of them."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.data.tables import load, write
from vibelite.data.sources import load_problems, load_traces
from vibelite.errors import DataError
from vibelite.recipe.data_section import ProblemTable, TraceMix, TraceTable
from vibelite.rewards.code_problem import CodeTest, read_tests
from vibelite.rewards.sandbox import Limits
from vibelite.types import Trace


def problems(tmp_path: Path, rows: list[dict[str, Any]], **values: Any) -> list[Any]:
    return load(write(tmp_path / "rows.jsonl", rows), **values)


def traces(tmp_path: Path, rows: list[dict[str, Any]], **values: Any) -> list[Any]:
    path = write(tmp_path / "rows.jsonl", rows)
    source = TraceTable.model_validate({"source": "file", "path": str(path), **values})
    return load_traces(source, {}, recipe_dir=tmp_path, seed=0)


MATH = [
    {"problem": f"{subject} {level}", "answer": "1", "subject": subject, "level": level}
    for level in (5, 4, 5, 5)
    for subject in ("Algebra", "Precalculus", "Counting & Probability", "Number Theory")
]


def test_wanted_rows_subdomains_and_their_numbers(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        MATH,
        where={"level": [5], "subject": ["Algebra", "Counting & Probability", "Precalculus"]},
        columns={
            "prompt": "problem",
            "subdomain": "subject",
            "subdomains": {"Counting & Probability": "statistics", "Precalculus": "calculus"},
        },
        num_per_subdomain=2,
    )
    names = ["Algebra", "calculus", "statistics"] * 2
    assert [problem.subdomain for problem in found] == names
    assert {problem.messages[0]["content"][-1] for problem in found} == {"5"}
    with pytest.raises(DataError, match="no rows with {'level': \\[6\\]}"):
        problems(tmp_path, MATH, where={"level": [6]}, columns={"prompt": "problem"})
    with pytest.raises(DataError, match="rows.jsonl:1: no column 'levels'"):
        problems(tmp_path, MATH, where={"levels": [5]}, columns={"prompt": "problem"})


def test_unusable_rows_are_counted_and_bounded(tmp_path: Path) -> None:
    rows = [{"prompt": str(number), "answer": "1"} for number in range(9)]
    rows.insert(3, {"prompt": "no answer", "answer": ""})
    with pytest.raises(DataError, match="rows.jsonl:4: answer"):
        problems(tmp_path, rows)
    told = r"1 of 10 rows cannot be used and are left out, the first: .*rows.jsonl:4"
    with pytest.warns(UserWarning, match=told):
        assert len(problems(tmp_path, rows, max_unusable=0.1)) == 9
    with pytest.raises(DataError, match=r"more than max_unusable \(0.05\)"):
        problems(tmp_path, rows, max_unusable=0.05)


def test_the_instruction_ends_every_prompt(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be brief."}
    rows = [
        {"prompt": [system, {"role": "user", "content": "1 + 1?"}], "answer": "2"},
        {"prompt": "2 + 2?", "answer": "4"},
    ]
    first, second = problems(tmp_path, rows, instruction="Box it.")
    assert first.messages == (system, {"role": "user", "content": "1 + 1?\n\nBox it."})
    assert second.messages[0]["content"] == "2 + 2?\n\nBox it."


STDIN = {"type": "stdin", "input": "1\n2\n", "output": "3"}
ADD = {"type": "functional", "fn_name": "add", "input": "1\n[2]", "output": "[3]"}
CODE_ROWS = {
    "taco": (
        {"tests": json.dumps({"inputs": ["1\n2\n"], "outputs": ["3"]})},
        STDIN,
    ),
    "taco, a function": (
        {"tests": {"inputs": [[1, [2]]], "outputs": [[[3]]], "fn_name": "add"}},
        ADD,
    ),
    "lines in a list": (
        {"tests": {"inputs": [["1", "2", ""]], "outputs": [["3"]]}},
        STDIN,
    ),
    "own": ({"tests": [ADD]}, ADD),
}


@pytest.mark.parametrize(("columns", "test"), CODE_ROWS.values(), ids=CODE_ROWS.keys())
def test_public_tests_become_own_ones(
    tmp_path: Path, columns: dict[str, Any], test: dict[str, str]
) -> None:
    (problem,) = problems(tmp_path, [{"prompt": "Sum.", **columns}], verifier="code")
    (read,) = read_tests(problem).tests
    assert (read.input, read.output) == (test["input"], test["output"])
    assert read.function == test.get("fn_name", "")
    named = "\n\nName the function `add`." if read.function else ""
    assert problem.messages[0]["content"] == f"Sum.{named}"


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        ({"inputs": ["1", "2"], "outputs": ["1"]}, "lists of the same length"),
        ("{", "not valid JSON"),
    ],
)
def test_public_tests_with_parts_missing_are_errors(
    tmp_path: Path, tests: Any, message: str
) -> None:
    with pytest.raises(DataError, match=f"rows.jsonl:1: .*{re.escape(message)}"):
        problems(tmp_path, [{"prompt": "Sum.", "tests": tests}], verifier="code")


def test_a_name_that_the_question_says_is_not_said_again(tmp_path: Path) -> None:
    row = {"prompt": "Write add(a, b).", "tests": [ADD]}
    (problem,) = problems(tmp_path, [row], verifier="code")
    assert problem.messages[0]["content"] == "Write add(a, b)."


def test_traces_of_two_columns_and_of_sharegpt(tmp_path: Path) -> None:
    rows = [{"input": "1 + 1?", "output": "2", "kind": kind} for kind in "aab"]
    found = traces(
        tmp_path,
        rows,
        messages_column="input",
        completion_column="output",
        subdomain_column="kind",
        where={"kind": ["a"]},
        num_traces=1,
    )
    assert [trace.subdomain for trace in found] == ["a"]
    assert [message["role"] for message in found[0].messages] == ["user", "assistant"]
    talk = [{"from": "human", "value": "1 + 1?"}, {"from": "gpt", "value": "2"}]
    (trace,) = traces(tmp_path, [{"conversations": talk}], messages_column="conversations")
    assert trace.messages == found[0].messages


def test_a_copy_of_a_hub_data_set_is_read_instead_of_it(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write(tmp_path / f"{name}.parquet", [{"prompt": name, "answer": "1"}])
    write(tmp_path / "rows.jsonl", [{"prompt": "c", "answer": "1"}])

    def prompts(local: str) -> list[str]:
        source = ProblemTable(source="hub", path="owner/name", local=local)
        found = load_problems(source, recipe_dir=tmp_path, seed=0)
        return [problem.messages[0]["content"] for problem in found]

    assert prompts(".") == ["a", "b"] and prompts("rows.jsonl") == ["c"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: there is no .parquet file"):
        prompts("empty")


def test_a_mix_is_its_sets_one_after_the_other(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"q": "1 + 1?", "a": "2"}])
    talk = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    write(tmp_path / "b.jsonl", [{"messages": talk}] * 2)
    first = {"source": "file", "path": "a.jsonl", "messages_column": "q", "completion_column": "a"}
    second = {"source": "file", "path": "b.jsonl", "num_traces": 1}
    source = TraceMix.model_validate({"source": "mix", "sets": [first, second]})
    found = load_traces(source, {}, recipe_dir=tmp_path, seed=0)
    assert [trace.messages[-1]["content"] for trace in found] == ["2", "4"]


PRINT = {"type": "stdin", "input": "1", "output": "2"}
CALL = {"type": "functional", "fn_name": "f", "input": "1", "output": "2"}


def test_a_parquet_table_may_hold_lists_of_structs(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "tests": [PRINT, CALL], "limits": {"seconds": 2.0}},
        {"prompt": "b", "tests": [PRINT], "limits": None},
    ]
    path = write(tmp_path / "a.parquet", rows)
    first, second = load(path, verifier="code")
    assert read_tests(first).tests == (CodeTest("1", "2"), CodeTest("1", "2", "f"))
    assert read_tests(first).limits == Limits(2.0)
    assert read_tests(second).tests == (CodeTest("1", "2"),)
    write(path, [*rows, {"prompt": "c", "tests": []}])
    with pytest.raises(DataError, match="a.parquet: row 3: tests: expected a list of at least one"):
        load(path, verifier="code")


def test_livecodebenchs_columns_need_no_mapping_but_of_the_prompt(tmp_path: Path) -> None:
    tests = json.dumps([{"input": "1", "output": "2", "testtype": "functional"}])
    row = {
        "question_content": "Find f.",
        "public_test_cases": tests,
        "private_test_cases": tests,
        "metadata": json.dumps({"func_name": "f"}),
    }
    path = write(tmp_path / "a.jsonl", [row])
    (problem,) = load(path, verifier="code", columns={"prompt": "question_content"})
    assert read_tests(problem).tests == (CodeTest("1", "2", "f"),) * 2
    assert read_tests(problem).has_imports
    write(path, [row, row | {"public_test_cases": "["}])
    with pytest.raises(DataError, match="a.jsonl:2: public_test_cases: not valid JSON"):
        load(path, verifier="code", columns={"prompt": "question_content"})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, "no column 'tests'; where 'tests' was looked for there is: prompt"),
        ({"tests": None}, "tests: expected a list of at least one test, found nothing"),
        ({"tests": "5"}, "tests: expected a list of at least one test, found int '5'"),
        ({"tests": [PRINT, {}]}, r"tests\[1\]: type is None; choose stdin or functional"),
        ({"tests": [{**CALL, "input": "x"}]}, r"tests\[0\]: line 1 of input: not valid JSON"),
        ({"tests": [PRINT], "limits": {"time": 1}}, "limits: unknown time; there are: seconds"),
        ({"public_test_cases": "[]"}, "no column 'tests'"),
    ],
)
def test_a_row_without_usable_tests_is_named_by_its_line(
    row: dict[str, Any], message: str, tmp_path: Path
) -> None:
    rows = [{"prompt": "a", "tests": [PRINT]}, {"prompt": "b", **row}]
    with pytest.raises(DataError, match=f"^[^:]*a.jsonl:2: {message}"):
        load(write(tmp_path / "a.jsonl", rows), verifier="code")


def openr1_rows() -> list[dict[str, Any]]:
    """In OpenR1-Math-220k's columns: 2 to 4 answers, not all of them verified, or none."""
    verdicts = [[True, False], [True, True, False, True], [False, False], [True, True]]
    return [
        {"problem": f"{number} + 1?", "answer": f"{number + 1}", "uuid": f"row {number}"}
        | {"generations": [f"{number}: {path}" for path in range(len(right))]}
        | {"correctness_math_verify": right}
        for number, right in enumerate(verdicts)
    ]


OPENR1: dict[str, Any] = {
    "messages_column": "problem",
    "completion_column": "generations",
    "verified_column": "correctness_math_verify",
}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_list_of_answers_is_one_trace_for_each_that_was_verified(
    tmp_path: Path, suffix: str
) -> None:
    write(tmp_path / f"r.{suffix}", openr1_rows())
    source = TraceTable(source="file", path=f"r.{suffix}", **OPENR1)
    found = load_traces(source, {}, recipe_dir=tmp_path, seed=0)
    answers = [trace.messages[-1]["content"] for trace in found]
    assert answers == ["0: 0", "1: 0", "1: 1", "1: 3", "3: 0", "3: 1"]
    assert [trace.problem_id for trace in found[1:4]] == ["r/1"] * 3
    assert [trace.path for trace in found[1:4]] == ["0", "1", "3"]
    assert all(len(trace.messages) == 2 for trace in found)
    everything = source.model_copy(update={"verified_column": None})
    assert len(load_traces(everything, {}, recipe_dir=tmp_path, seed=0)) == 2 + 4 + 2 + 2


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        ({"correctness_math_verify": [True]}, "generations has 2 answers, and .* 1 values"),
        ({"generations": "one"}, "generations and correctness_math_verify must be lists"),
        ({"correctness_math_verify": True}, "must be lists"),
        ({"generations": [" ", "x"]}, "r.jsonl:1: generations: a message needs"),
    ],
)
def test_lists_that_do_not_belong_together_are_errors(
    tmp_path: Path, spoiled: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        write(tmp_path / "r.jsonl", [openr1_rows()[0] | spoiled])
        source = TraceTable(source="file", path="r.jsonl", **OPENR1)
        load_traces(source, {}, recipe_dir=tmp_path, seed=0)


def test_a_cap_of_paths_holds_for_lists_and_for_rows_with_the_same_question(
    tmp_path: Path,
) -> None:
    write(tmp_path / "lists.jsonl", openr1_rows())
    rows = [{"q": f"{n % 3} + 1?", "a": f"answer {n}"} for n in range(12)]
    write(tmp_path / "rows.jsonl", rows)
    for name, columns, limit in [
        ("lists", OPENR1, 2),
        ("rows", {"messages_column": "q", "completion_column": "a"}, 3),
    ]:
        source = TraceTable(source="file", path=f"{name}.jsonl", paths_per_problem=limit, **columns)
        seeds = (0, 0, *range(1, 9))
        drawn = [load_traces(source, {}, recipe_dir=tmp_path, seed=seed) for seed in seeds]
        assert drawn[0] == drawn[1]
        assert len({tuple(trace.messages[-1]["content"] for trace in each) for each in drawn}) > 1
        for each in drawn:
            counts = Counter(trace.messages[0]["content"] for trace in each)
            assert max(counts.values()) == limit and len(counts) == 3
            assert each == sorted(each, key=place_of)


def place_of(trace: Trace) -> tuple[int, str]:
    return int(trace.problem_id.split("/")[1]), trace.path
