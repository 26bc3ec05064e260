"""Tests of programs as they are read: rows, limits, and pickles that are not to be trusted."""

import base64
import json
import os
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest

from vibelite.errors import DataError
from vibelite.rewards import code_problem
from vibelite.rewards.code_problem import (
    LCB_LIMITS,
    CodeTest,
    decode_private_tests,
    lcb_metadata,
    limits_of,
    read_tests,
    row_metadata,
    unpickle_text,
)
from vibelite.rewards.sandbox import Limits
from vibelite.types import Problem

STDIN = {"type": "stdin", "input": "1", "output": "2"}
FUNCTION = {"type": "functional", "fn_name": "f", "input": '1\n"a"\n', "output": "[1]"}
LCB_TESTS = [{"input": "1\n", "output": "2\n", "testtype": "stdin"}]


def problem(metadata: dict[str, Any]) -> Problem:
    return Problem("p7", "s", (), "", "code", metadata=metadata)


def packed(value: Any, protocol: int = 4) -> str:
    """A value as LiveCodeBench packs its private tests."""
    return base64.b64encode(zlib.compress(pickle.dumps(value, protocol))).decode()


def lcb_row(private: str, function: str = "", public: Any = LCB_TESTS) -> dict[str, Any]:
    metadata = json.dumps({"func_name": function} if function else {})
    return {
        "public_test_cases": json.dumps(public),
        "private_test_cases": private,
        "metadata": metadata,
    }


def test_rows_become_tests_with_the_rows_own_limits() -> None:
    limits = {"seconds": 1, "memory_bytes": 1 << 28, "output_bytes": 99, "total_seconds": 5}
    tests = read_tests(problem(row_metadata([STDIN, FUNCTION], limits)))
    assert tests.tests == (CodeTest("1", "2"), CodeTest('1\n"a"\n', "[1]", "f"))
    assert (tests.limits, tests.total_seconds) == (Limits(1, 1 << 28, 99), 5)
    assert not tests.has_imports
    assert limits_of(row_metadata(json.dumps([STDIN]))) == (Limits(seconds=3.0), 60.0)
    # Parquet fills what other rows of the table have with nulls.
    nulls = row_metadata([{**STDIN, "fn_name": None}], {"seconds": None, "memory_bytes": 1 << 28})
    assert limits_of(nulls)[0] == Limits(3.0, 1 << 28)


def test_the_value_of_a_function_may_be_given_as_it_is() -> None:
    for output, text in [([1, 2], "[1, 2]"), (5, "5"), ("5", "5"), (False, "false")]:
        (test,) = read_tests(problem(row_metadata([{**FUNCTION, "output": output}]))).tests
        assert test.output == text


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        (None, "tests: expected a list of at least one test, found nothing"),
        ([], "tests: expected a list of at least one test, found list"),
        ("[1", "tests: not valid JSON"),
        ([STDIN, 5], r"tests\[1\]: expected an object, found int '5'"),
        ([{"input": "1", "output": "2"}], r"tests\[0\]: type is None; choose stdin or functional"),
        ([{**STDIN, "input": 1}], r"tests\[0\]: input is int '1'; it must be a text"),
        ([{**STDIN, "output": None}], r"tests\[0\]: output is nothing; it must be a text"),
        ([{**STDIN, "output": 2}], r"tests\[0\]: output is int '2'; it must be a text"),
        ([{**FUNCTION, "fn_name": ""}], r"tests\[0\]: fn_name is str ''; it must be the name"),
        ([{**FUNCTION, "fn_name": "a.b"}], r"fn_name is str 'a.b'"),
        ([{**FUNCTION, "input": "1\nx"}], r"tests\[0\]: line 2 of input: not valid JSON"),
        ([{**FUNCTION, "output": "x"}], r"tests\[0\]: output: not valid JSON"),
        ([{**STDIN, "tolerance": "1"}], r"tests\[0\]: tolerance must be a number from 0 to 1: '1'"),
        ([STDIN, {**STDIN, "tolerance": -1e-9}], r"tests\[1\]: tolerance must be a number"),
    ],
)
def test_tests_that_cannot_be_run_are_named(tests: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        row_metadata(tests)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (5, "limits: expected an object, found int '5'"),
        ({"second": 5}, "limits: unknown second; there are: seconds, memory_bytes"),
        ({"seconds": "5"}, "limits.seconds must be a number above 0"),
        ({"seconds": 0}, "limits.seconds must be a number above 0"),
        ({"seconds": float("nan")}, "limits.seconds must be a number above 0"),
        ({"seconds": True}, "limits.seconds must be a number above 0"),
        ({"memory_bytes": 1.5}, "limits.memory_bytes must be a whole number above 0"),
        ({"memory_bytes": -1}, "limits.memory_bytes must be a whole number above 0"),
        ({"output_bytes": 1 << 40}, "limits.output_bytes must be a whole number above 0"),
        ({"total_seconds": -1}, "limits.total_seconds must be a number above 0"),
        ({"total_seconds": True}, "limits.total_seconds must be a number above 0"),
    ],
)
def test_limits_that_make_no_sense_are_named(limits: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        row_metadata([STDIN], limits)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("size", [1, 1000, 100_000])
def test_private_tests_are_read_whatever_pickled_them(protocol: int, size: int) -> None:
    tests = [{**LCB_TESTS[0], "output": "ż" * size}]
    assert decode_private_tests(packed(json.dumps(tests), protocol)) == tests
    assert decode_private_tests(json.dumps(tests)) == tests


def test_tests_of_livecodebench_are_the_public_then_the_private_ones() -> None:
    private = packed(json.dumps([{"input": "3", "output": "4", "testtype": "stdin"}]))
    tests = read_tests(problem(lcb_metadata(lcb_row(private))))
    assert tests.tests == (CodeTest("1\n", "2\n"), CodeTest("3", "4"))
    assert (tests.limits, tests.total_seconds) == (LCB_LIMITS, 300.0)
    assert tests.has_imports
    private = packed(json.dumps([{"input": "[1]", "output": "4", "testtype": "functional"}]))
    tests = read_tests(problem(lcb_metadata(lcb_row(private, function="f", public=[]))))
    assert tests.tests == (CodeTest("[1]", "4", "f"),)


class Touch:
    """Unpickled by `pickle`, it makes the file `path`."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def hostile_pickles(path: Path) -> dict[str, bytes]:
    touch = {f"protocol {p}": pickle.dumps(Touch(path), p) for p in range(6)}
    inside = {f"inside {p}": pickle.dumps(["[]", Touch(path)], p) for p in range(6)}
    argument = pickle.dumps(str(path))[2:-1]
    command = f"mkdir {path}".encode()
    return {
        **touch,
        **inside,
        "global": b"cos\nmkdir\n.",
        "inst": b"(" + b"S'" + command + b"'\nios\nsystem\n.",
        "obj": b"(cos\nmkdir\n" + argument + b"o.",
        "after a text": pickle.dumps("[]", 2)[:-1] + b"0cos\nmkdir\n" + argument + b"\x85R.",
        "extension registry": b"\x80\x02\x82\x01.",
        "persistent id": b"P1\n.",
        "memo of 64 GiB": b"\x80\x04\x8c\x01ar\xff\xff\xff\xff0j\xff\xff\xff\xff.",
        "byte array of 1 TiB": b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b".",
    }


def test_the_hostile_pickles_are_hostile(tmp_path: Path) -> None:
    """If this fails, the next test shows nothing."""
    path = tmp_path / "made"
    pickles = hostile_pickles(path)
    for name in ("protocol 0", "inside 5", "inst", "obj", "after a text"):
        pickle.loads(pickles[name])
        assert path.is_dir(), name
        path.rmdir()


@pytest.mark.parametrize("name", hostile_pickles(Path("x")))
def test_a_pickle_of_anything_but_a_text_is_refused_unexecuted(name: str, tmp_path: Path) -> None:
    path = tmp_path / "made"
    pickled = hostile_pickles(path)[name]
    with pytest.raises(DataError, match="private_test_cases: (a pickle of|not a pickle)"):
        unpickle_text(pickled)
    text = base64.b64encode(zlib.compress(pickled)).decode()
    metadata = lcb_metadata(lcb_row(text))
    with pytest.raises(DataError, match="problem p7: private_test_cases: "):
        read_tests(problem(metadata))
    assert not path.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("eJx...", "neither JSON nor a compressed pickle"),
        ("ż", "neither JSON nor a compressed pickle"),
        ("", "neither JSON nor a compressed pickle|not a pickle"),
        (base64.b64encode(b"[]").decode(), "neither JSON nor a compressed pickle"),
        (base64.b64encode(zlib.compress(b"[]")).decode(), "not a pickle"),
        (base64.b64encode(zlib.compress(pickle.dumps("[]"))[:-8]).decode(), "not a pickle|JSON"),
        (packed("[1"), "not valid JSON"),
        (packed("{}"), "expected a list of tests, found dict"),
        (packed('[{"input": "1"}]'), r"private_test_cases\[0\]: output is nothing"),
        (packed(b"[]"), "a pickle of more than a text"),
        ("[]", "there are no tests"),
    ],
)
def test_broken_private_tests_are_an_error_with_the_problem(text: str, message: str) -> None:
    with pytest.raises(DataError, match=f"problem p7: .*({message})"):
        read_tests(problem(lcb_metadata(lcb_row(text, public=[]))))


def test_a_small_text_that_would_fill_the_memory_is_refused(monkeypatch: Any) -> None:
    monkeypatch.setattr(code_problem, "MAX_TESTS_BYTES", 1 << 20)
    assert decode_private_tests(packed(json.dumps(["x" * 1_000_000])))
    bomb = packed(json.dumps(["x" * 50_000_000]))
    assert len(bomb) < 100_000
    with pytest.raises(DataError, match="more than 1048576 bytes"):
        decode_private_tests(bomb)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (lcb_row("", public={}), "public_test_cases: expected a list of tests, found dict"),
        (lcb_row("", public=[1]), r"public_test_cases\[0\]: expected an object"),
        ({**lcb_row(""), "public_test_cases": "x"}, "public_test_cases: not valid JSON"),
        ({**lcb_row(""), "metadata": "[]"}, "metadata: expected a JSON object, found list"),
        ({**lcb_row(""), "metadata": "{"}, "metadata: not valid JSON"),
        (
            lcb_row("", function="f", public=[{"input": "x", "output": "1"}]),
            r"public_test_cases\[0\]: line 1 of input: not valid JSON",
        ),
    ],
)
def test_broken_public_columns_are_an_error_when_they_are_loaded(row: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        lcb_metadata(row)
