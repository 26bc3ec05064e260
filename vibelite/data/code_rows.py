"""Programming problems of public data: tests of TACO (one object with `inputs`, `outputs` and, for
functions, `fn_name`) in the form that `vibelite verify` reads, and rows of LiveCodeBench with the
prompt that the VibeThinker report's evaluation used.
"""

from __future__ import annotations

import json
from typing import Any

from vibelite.errors import DataError
from vibelite.rewards.code_problem import PRIVATE_TESTS, PUBLIC_TESTS, lcb_metadata
from vibelite.types import Problem

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


def own_form(tests: Any) -> Any:
    """The `tests` of a row, those of TACO in the project's form; others are judged elsewhere.
    Raises DataError for TACO's form with parts missing.
    """
    if isinstance(tests, str):
        try:
            tests = json.loads(tests)
        except ValueError as error:
            raise DataError(f"tests: not valid JSON ({error})") from error
    if not (isinstance(tests, dict) and "inputs" in tests and "outputs" in tests):
        return tests
    inputs, outputs = tests["inputs"], tests["outputs"]
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
        raise DataError("tests: inputs and outputs must be lists of the same length")
    pairs = zip(inputs, outputs, strict=True)
    if name := tests.get("fn_name"):
        return [_call(name, given, wanted) for given, wanted in pairs]
    return [
        {"type": "stdin", "input": _lines(given), "output": _lines(wanted)}
        for given, wanted in pairs
    ]


def function_named(tests: Any) -> str:
    """The function that tests in the project's form call; "" for programs that read stdin."""
    first = tests[0] if isinstance(tests, list) and tests else None
    return str(first.get("fn_name") or "") if isinstance(first, dict) else ""


def _call(name: str, given: Any, wanted: Any) -> dict[str, Any]:
    """A test of a function; TACO puts what it returns into a list of one."""
    is_wrapped = isinstance(wanted, list) and len(wanted) == 1
    return {
        "type": "functional",
        "fn_name": name,
        "input": "\n".join(map(json.dumps, given)) if isinstance(given, list) else given,
        "output": json.dumps(wanted[0] if is_wrapped else wanted),
    }


def _lines(value: Any) -> Any:
    is_lines = isinstance(value, list) and all(isinstance(line, str) for line in value)
    return "\n".join(value) if is_lines else value


def problem_from_lcb_row(row: dict[str, Any], where: str) -> Problem:
    """The problem of one row; sub-domains are the difficulties. Raises DataError for missing
    columns and public tests that cannot be run.
    """
    missing = [name for name in TEXT_COLUMNS if not isinstance(row.get(name), str)]
    if missing:
        there = ", ".join(map(str, row))
        raise DataError(f"{where}: no text in {', '.join(missing)}; there are: {there}")
    try:
        metadata = lcb_metadata(row)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
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
