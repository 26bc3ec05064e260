"""The tests of a programming problem and what a program may take: from rows of a user's own, and
from LiveCodeBench's, whose private tests are compressed pickles. No pickle is ever executed.
"""

from __future__ import annotations

import base64
import functools
import json
import pickletools
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from io import BytesIO
from typing import Any

from vibelite.errors import DataError
from vibelite.rewards.sandbox import Limits
from vibelite.types import Problem

# An endless loop in a row without limits ends after these. LiveCodeBench's harness gives 6 s.
ROW_SECONDS, ROW_TOTAL_SECONDS = 3.0, 60.0
# LiveCodeBench bounds memory only on demand, and the time of all n tests by 7 n + 5 s; own: 300 s.
LCB_LIMITS, LCB_TOTAL_SECONDS = Limits(seconds=6.0, memory_bytes=4 << 30), 300.0
# Where the metadata of a problem has what tests it.
TESTS, LIMITS = "tests", "limits"
PUBLIC_TESTS, PRIVATE_TESTS, FUNCTION = "public_test_cases", "private_test_cases", "func_name"
# Tests of one problem; a small file can decompress to any size.
MAX_TESTS_BYTES = 512 << 20
MAX_TOTAL_SECONDS = 3600.0
MAX_DIGITS, PYTHON_DIGITS = 50_000, 4_300
_STDIN, _FUNCTIONAL = "stdin", "functional"
# The opcodes of a pickled text; none of them calls or imports anything.
_TEXT_OPCODES = {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_MARKER_OPCODES = {"PROTO", "FRAME", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "STOP"}


@dataclass(frozen=True, slots=True)
class CodeTest:
    """One test: a program that reads `input` prints `output`; or, of a `function`, the arguments
    in `input`, in JSON and one a line, give the value `output`, in JSON.
    """

    input: str
    output: str
    function: str = ""
    tolerance: float = 0.0
    """By how much a number may differ from the expected one, absolutely or relatively to it."""


@dataclass(frozen=True, slots=True)
class CodeTests:
    """All tests of a problem, in the order in which they are run."""

    tests: tuple[CodeTest, ...]
    limits: Limits
    """Of one test."""
    total_seconds: float
    """Of wall-clock time for all tests together."""
    has_imports: bool
    """Programs find LiveCodeBench's imports made: everybody's answers to it rely on them."""


def read_tests(problem: Problem) -> CodeTests:
    """The tests of a problem with `verifier: code`.

    Raises DataError, with the problem's id, for what cannot be read; rows were checked when they
    were loaded, LiveCodeBench's private tests are read here first.
    """
    metadata = problem.metadata
    limits, total_seconds = limits_of(metadata)
    if TESTS in metadata:
        tests = tuple(
            CodeTest(
                test["input"], test["output"], test.get("fn_name", ""), test.get("tolerance", 0.0)
            )
            for test in metadata[TESTS]
        )
        return CodeTests(tests, limits, total_seconds, has_imports=False)
    texts = (metadata[PUBLIC_TESTS], metadata[PRIVATE_TESTS])
    try:
        tests = _lcb_tests(*texts, metadata[FUNCTION])
    except DataError as error:
        raise DataError(f"problem {problem.id}: {error}") from error
    return CodeTests(tests, limits, total_seconds, has_imports=True)


def limits_of(metadata: Mapping[str, Any]) -> tuple[Limits, float]:
    """What one test, and the wall-clock seconds that all tests together may take."""
    if TESTS not in metadata:
        return LCB_LIMITS, LCB_TOTAL_SECONDS
    values = {"seconds": ROW_SECONDS, **metadata.get(LIMITS, {})}
    total_seconds = values.pop("total_seconds", ROW_TOTAL_SECONDS)
    return Limits(**values), total_seconds


def row_metadata(tests: Any, limits: Any = None) -> dict[str, Any]:
    """The metadata of a problem with a row's `tests`, a list or its JSON text, and `limits`.

    Raises DataError for tests that no program could be judged by.
    """
    tests = _parse(tests, "tests") if isinstance(tests, str) else tests
    if not isinstance(tests, list) or not tests:
        raise DataError(f"tests: expected a list of at least one test, found {_shown(tests)}")
    checked = [_checked(test, f"tests[{index}]") for index, test in enumerate(tests)]
    return {TESTS: checked, LIMITS: _checked_limits(limits)}


def lcb_metadata(row: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a problem in LiveCodeBench's columns, its private tests not yet read.

    Raises DataError for public tests that no program could be judged by.
    """
    details = row.get("metadata") or "{}"
    details = _parse(details, "metadata") if isinstance(details, str) else details
    if not isinstance(details, dict):
        raise DataError(f"metadata: expected a JSON object, found {_shown(details)}")
    function = details.get(FUNCTION) or ""
    _lcb_list(_parse(row[PUBLIC_TESTS], PUBLIC_TESTS), PUBLIC_TESTS, function)
    return {
        PUBLIC_TESTS: row[PUBLIC_TESTS],
        PRIVATE_TESTS: row[PRIVATE_TESTS],
        FUNCTION: function,
    }


@functools.lru_cache(maxsize=1)  # a group's completions are judged one after the other
def _lcb_tests(public: str, private: str, function: str) -> tuple[CodeTest, ...]:
    tests = (
        *_lcb_list(_parse(public, PUBLIC_TESTS), PUBLIC_TESTS, function),
        *_lcb_list(decode_private_tests(private), PRIVATE_TESTS, function),
    )
    if not tests:
        raise DataError("there are no tests: every program would pass")
    return tests


def decode_private_tests(text: str) -> Any:
    """LiveCodeBench's private tests: JSON, or base64 of zlib of a pickle of a JSON text.

    Raises DataError for anything else, and for a pickle of anything but one text.
    """
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        packed = base64.b64decode(text.encode(), validate=True)
        stream = zlib.decompressobj()
        pickled = stream.decompress(packed, MAX_TESTS_BYTES)
    except (ValueError, zlib.error) as error:
        raise DataError(
            f"{PRIVATE_TESTS}: neither JSON nor a compressed pickle ({error})"
        ) from error
    if stream.unconsumed_tail:
        raise DataError(f"{PRIVATE_TESTS}: more than {MAX_TESTS_BYTES} bytes")
    return _parse(unpickle_text(pickled), PRIVATE_TESTS)


def unpickle_text(pickled: bytes) -> str:
    """The one text in a pickle.

    Raises DataError for a pickle of anything else, without executing any of it: it could run code.
    """
    texts = []
    try:
        for opcode, argument, _ in pickletools.genops(BytesIO(pickled)):
            if opcode.name in _TEXT_OPCODES:
                texts.append(argument)
            elif opcode.name not in _MARKER_OPCODES:
                raise DataError(f"{PRIVATE_TESTS}: a pickle of more than a text ({opcode.name})")
    except ValueError as error:
        raise DataError(f"{PRIVATE_TESTS}: not a pickle ({error})") from error
    if len(texts) != 1:
        raise DataError(f"{PRIVATE_TESTS}: a pickle of {len(texts)} texts, expected 1")
    return texts[0]


def _lcb_list(tests: Any, name: str, function: str) -> list[CodeTest]:
    if not isinstance(tests, list):
        raise DataError(f"{name}: expected a list of tests, found {_shown(tests)}")
    kind = {"type": _FUNCTIONAL, "fn_name": function} if function else {"type": _STDIN}
    checked = []
    for index, test in enumerate(tests):
        test = {**test, **kind} if isinstance(test, dict) else test
        test = _checked(test, f"{name}[{index}]")
        checked.append(CodeTest(test["input"], test["output"], function))
    return checked


def _checked(test: Any, where: str) -> dict[str, Any]:
    """The test with no keys but its own. Raises DataError for one that cannot be run."""
    if not isinstance(test, dict):
        raise DataError(f"{where}: expected an object, found {_shown(test)}")
    kind = test.get("type")
    if kind not in (_STDIN, _FUNCTIONAL):
        raise DataError(f"{where}: type is {kind!r}; choose {_STDIN} or {_FUNCTIONAL}")
    if kind == _FUNCTIONAL and test.get("output") is not None:
        test = {**test, "output": _as_json(test["output"])}
    for key in ("input", "output"):
        if not isinstance(test.get(key), str):
            raise DataError(f"{where}: {key} is {_shown(test.get(key))}; it must be a text")
    checked: dict[str, Any] = {"type": kind, "input": test["input"], "output": test["output"]}
    if (tolerance := test.get("tolerance")) is not None:
        is_number = isinstance(tolerance, int | float) and not isinstance(tolerance, bool)
        if not is_number or not 0 <= tolerance < 1:
            raise DataError(f"{where}: tolerance must be a number from 0 to 1: {tolerance!r}")
        checked["tolerance"] = float(tolerance)
    if kind == _STDIN:
        return checked
    name = test.get("fn_name")
    if not isinstance(name, str) or not name.isidentifier():
        raise DataError(f"{where}: fn_name is {_shown(name)}; it must be the name of a function")
    for number, line in enumerate(test["input"].split("\n"), start=1):
        if line.strip():
            _parse(line, f"{where}: line {number} of input")
    _parse(test["output"], f"{where}: output")
    return {**checked, "fn_name": name}


def parse_json_value(text: str | bytes) -> Any:
    """The value that JSON stands for, its whole numbers of up to MAX_DIGITS digits, as in
    LiveCodeBench's harness; Python alone reads 4,300. ValueError for a longer one.
    """
    return json.loads(text, parse_int=_read_integer)


def _read_integer(digits: str) -> int | Decimal:
    if len(digits) <= PYTHON_DIGITS:
        return int(digits)
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return Decimal(digits)  # equal to the int, without its limit on reading


def _as_json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _checked_limits(limits: Any) -> dict[str, Any]:
    if limits is None:
        return {}
    if not isinstance(limits, dict):
        raise DataError(f"limits: expected an object, found {_shown(limits)}")
    limits = {name: value for name, value in limits.items() if value is not None}
    names = ("seconds", "memory_bytes", "output_bytes", "total_seconds")
    if unknown := sorted(set(limits) - set(names)):
        raise DataError(f"limits: unknown {', '.join(unknown)}; there are: {', '.join(names)}")
    _, total_seconds = limits_of({TESTS: [], LIMITS: limits})  # checks all others
    is_number = isinstance(total_seconds, int | float) and not isinstance(total_seconds, bool)
    if not is_number or not 0 < total_seconds <= MAX_TOTAL_SECONDS:
        raise DataError(
            f"limits.total_seconds must be a number above 0 and at most {MAX_TOTAL_SECONDS:g}: "
            f"{total_seconds!r}"
        )
    return limits


def _parse(text: Any, where: str) -> Any:
    if not isinstance(text, str):
        raise DataError(f"{where}: expected a text, found {_shown(text)}")
    try:
        return parse_json_value(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error})") from error


def _shown(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {str(value)[:60]!r}"
