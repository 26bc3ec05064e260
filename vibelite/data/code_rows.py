"""Tests of public programming data in the form that `vibelite verify` reads.

Three forms are known beside the project's own, told apart by their shape: TACO's (one object with
`inputs`, `outputs` and, for functions, `fn_name`), PrimeIntellect's (a list with `type:
stdin_stdout` or `function_call`) and LiveCodeBench's as DeepCoder has it (a list with `testtype`;
the function's name is in the row's `metadata`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vibelite.errors import DataError

STDIN = ("stdin", "stdin_stdout")
FUNCTION = ("function_call", "functional")


def own_form(tests: Any, row: Mapping[str, Any]) -> Any:
    """The `tests` of a row as a list in the project's form; anything that is in none of the three
    public forms is returned as it is, for others to judge.

    Raises DataError for a public form with parts missing.
    """
    if isinstance(tests, str):
        try:
            tests = json.loads(tests)
        except ValueError as error:
            raise DataError(f"tests: not valid JSON ({error})") from error
    if isinstance(tests, dict) and "inputs" in tests and "outputs" in tests:
        return _from_taco(tests)
    if isinstance(tests, list) and all(map(_is_public, tests)):
        return [_from_list(test, _function_of_row(row)) for test in tests]
    return tests


def function_named(tests: Any) -> str:
    """The function that tests in the project's form call; "" for programs that read stdin."""
    first = tests[0] if isinstance(tests, list) and tests else None
    return str(first.get("fn_name") or "") if isinstance(first, dict) else ""


def _is_public(test: Any) -> bool:
    return isinstance(test, dict) and (
        "testtype" in test or test.get("type") in ("stdin_stdout", "function_call")
    )


def _from_taco(tests: Mapping[str, Any]) -> list[dict[str, Any]]:
    inputs, outputs = tests["inputs"], tests["outputs"]
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
        raise DataError("tests: inputs and outputs must be lists of the same length")
    name = tests.get("fn_name")
    kind = "function_call" if name else "stdin_stdout"
    return [
        _from_list({"type": kind, "fn_name": name, "input": given, "output": wanted}, "")
        for given, wanted in zip(inputs, outputs, strict=True)
    ]


def _from_list(test: Mapping[str, Any], function: str) -> dict[str, Any]:
    """One test; `function` is the name that the row gives, where the test gives none."""
    kind = test.get("testtype") or test.get("type")
    missing = [key for key in ("input", "output") if key not in test]
    if missing or kind not in (*STDIN, *FUNCTION):
        raise DataError(f"tests: a test of type {kind!r} with {', '.join(test)}")
    if kind in STDIN:
        texts = {"input": _lines(test["input"]), "output": _lines(test["output"])}
        return {"type": "stdin", **texts}
    metadata = test.get("metadata")
    inner = metadata.get("func_name") if isinstance(metadata, dict) else None
    name = test.get("fn_name") or inner or function
    return {
        "type": "functional",
        "fn_name": name,
        "input": _arguments(test["input"]),
        "output": _value(test["output"], is_wrapped="testtype" not in test),
    }


def _function_of_row(row: Mapping[str, Any]) -> str:
    metadata = row.get("metadata")
    if isinstance(metadata, str):
        try:
            metadata = json.loads(metadata)
        except ValueError:  # some other column of that name
            metadata = None
    name = metadata.get("func_name") if isinstance(metadata, dict) else None
    return name if isinstance(name, str) else ""


def _lines(value: Any) -> Any:
    """A text; some rows have it as a list of its lines."""
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    return value


def _arguments(value: Any) -> Any:
    """Arguments as JSON, one a line: a list of them, or a text that is in that form already."""
    if isinstance(value, list):
        return "\n".join(json.dumps(argument) for argument in value)
    return value


def _value(value: Any, *, is_wrapped: bool) -> Any:
    """What the function returns, as JSON. TACO and PrimeIntellect put it into a list of one."""
    if not is_wrapped:
        return value
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return json.dumps(value)
