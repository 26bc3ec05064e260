"""`vibelite verify`: one verdict a line, and errors with the line they are about."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vibelite.cli import app
from vibelite.errors import DataError, RecipeError

REWARDS = Path(__file__).parent.parent / "rewards" / "rewards_of_tests.py"
ROWS = [
    {"prediction": "\\boxed{204}", "answer": 204, "verifier": "math"},
    {"prediction": "\\boxed{\\sqrt{12}}", "answer": "2\\sqrt{3}", "verifier": "math"},
    {"prediction": "\\boxed{9^{9^{9^9}}}", "answer": "\\sqrt{3}", "verifier": "math"},
    {"prediction": "\\boxed{B}", "answer": "A", "verifier": "choice"},
    {"prediction": "<think>\\boxed{A}", "answer": "A", "verifier": "choice"},
]


def write(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(*arguments) -> str:
    result = CliRunner().invoke(app, ["verify", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def fails(*arguments) -> Exception:
    error = CliRunner().invoke(app, ["verify", *map(str, arguments)]).exception
    assert isinstance(error, Exception)
    return error


def test_json_has_one_line_a_row_in_order(tmp_path):
    lines = [
        json.loads(line)
        for line in run(write(tmp_path / "a.jsonl", ROWS), "--json").split("\n")[:-1]
    ]
    assert [line["correct"] for line in lines] == [True, True, None, False, False]
    assert [line["reason"] for line in lines] == [
        "correct",
        "correct",
        "unverifiable: a power in an exponent: 9^{9^{9^9}}",
        "wrong: B",
        "unclosed <think>",
    ]
    assert all(set(line) == {"correct", "reason", "seconds"} for line in lines)
    assert all(0 < line["seconds"] < 4 for line in lines)


def test_the_summary_counts_outcomes_and_says_how_fast(tmp_path):
    text = run(write(tmp_path / "a.jsonl", ROWS))
    assert "math: 3 rows: 2 correct, 1 unverifiable" in text
    assert "choice: 2 rows: 2 wrong" in text
    assert "5 rows in " in text and " rows/s)" in text
    assert "not judged: " in text and "a.jsonl:3: unverifiable" in text


def test_text_that_no_encoding_or_terminal_takes_is_judged_all_the_same(tmp_path):
    """Half a character, as JSON can say it, and a sequence that would clear the screen."""
    half = {"prediction": "\\boxed{\ud800}", "answer": 204, "verifier": "math"}
    clears = {"prediction": "\\boxed{9^{9^9}\x1b[2J}", "answer": "x", "verifier": "math"}
    program = {"code": "\ud800", "tests": [STDIN], "verifier": "code"}
    path = write(tmp_path / "a.jsonl", [half, clears, program])
    lines = [json.loads(line) for line in run(path, "--json").split("\n")[:-1]]
    assert [line["correct"] for line in lines] == [False, None, False]
    assert lines[0]["reason"] == "wrong: \ud800"
    text = run(path)
    assert "\x1b" not in text and "\\x1b[2J" in text


def test_a_function_of_the_user_judges_every_row(tmp_path):
    rows = [{"prediction": "x" * 10}, {"prediction": "x" * 5}, {"prediction": "x" * 20}]
    path = write(tmp_path / "a.jsonl", rows)
    arguments = ["verify", str(path), "--json", "--custom", f"{REWARDS}:length_of_text"]
    result = CliRunner().invoke(app, arguments)
    lines = [json.loads(line) for line in result.stdout.split("\n")[:-1]]
    assert result.exit_code == 1
    assert re.match(
        r"the verifier failed on 1 of 3 rows; the first is .*a.jsonl:3: exception: ValueError",
        result.stderr,
    )
    assert [line["correct"] for line in lines] == [True, False, None]
    assert [line["reward"] for line in lines] == [1.0, 0.5, 0.0]
    assert "exception: ValueError" in lines[2]["reason"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prediction": "x", "answer": "\\frac{", "verifier": "math"}, "cannot be read as mathem"),
        ({"prediction": "x", "answer": "AB", "verifier": "choice"}, "'AB' is no letter of A to J"),
        ({"prediction": 5, "answer": "5", "verifier": "math"}, "prediction is '5'; it must be"),
        ({"prediction": "x", "verifier": "math"}, "answer is None; it must be a text or a number"),
        ({"prediction": "x", "answer": "5", "verifier": "vibes"}, "verifier is 'vibes'; choose"),
        ({"prediction": "x", "answer": "5"}, "verifier is None; choose among math, choice"),
        ({"prediction": "x", "answer": True, "verifier": "math"}, "answer is True; it must be"),
        ({"prediction": "x", "answer": float("nan"), "verifier": "math"}, "answer is nan; it must"),
        ({"prediction": "x", "answer": "", "verifier": "math"}, "cannot be read as mathematics"),
        ({"prediction": "x", "answer": "b", "verifier": "choice"}, "'b' is no letter of A to J"),
        ({"answer": "5", "verifier": "math"}, "prediction is 'None'; it must be a text"),
        ([1], "expected an object, found list"),
        ("text", "expected an object, found str"),
    ],
)
def test_a_row_that_cannot_be_judged_is_named_by_its_line(tmp_path, row, message):
    error = fails(write(tmp_path / "a.jsonl", [ROWS[0], row]))
    assert isinstance(error, DataError) and error.exit_code == 2
    assert "a.jsonl:2: " in str(error) and message in str(error)


def test_wrong_arguments_are_named(tmp_path):
    path = write(tmp_path / "a.jsonl", ROWS)
    for arguments, message in [
        ((tmp_path / "b.jsonl",), "b.jsonl: no such file"),
        ((REWARDS,), "must be a .jsonl file"),
        ((path, "--custom", "score"), "--custom score: must be FILE.py:FUNCTION"),
        ((path, "--custom", f"{REWARDS}:nothing"), "defines no 'nothing'"),
    ]:
        error = fails(*arguments)
        assert isinstance(error, RecipeError | DataError) and message in str(error)


STDIN = {"type": "stdin", "input": "2 3\n", "output": "5\n"}
CALL = {"type": "functional", "fn_name": "add", "input": "2\n3", "output": "5"}
PROGRAM = "print(sum(map(int, input().split())))"
CODE_ROWS = [
    {"code": PROGRAM, "tests": [STDIN, STDIN]},
    {"code": "def add(a, b): return a + b", "tests": [CALL]},
    {"code": "print(6)", "tests": [STDIN]},
    {"code": "input(); input()", "tests": [STDIN]},
    {"code": "while True: pass", "tests": [STDIN], "limits": {"seconds": 0.3}},
    {"code": "x = [0] * 10**8", "tests": [STDIN], "limits": {"memory_bytes": 200_000_000}},
    {"code": "print('5' * 10**6)", "tests": [STDIN], "limits": {"output_bytes": 1000}},
    {"prediction": f"So:\n```python\n{PROGRAM}\n```", "tests": [STDIN]},
]


def test_programs_have_one_of_six_reasons(tmp_path):
    path = write(tmp_path / "a.jsonl", [row | {"verifier": "code"} for row in CODE_ROWS])
    lines = [json.loads(line) for line in run(path, "--json").split("\n")[:-1]]
    assert [(line["correct"], line["reason"]) for line in lines] == [
        (True, "pass"),
        (True, "pass"),
        (False, "wrong_answer"),
        (False, "runtime_error"),
        (False, "time_limit"),
        (False, "memory_limit"),
        (False, "output_limit"),
        (True, "pass"),
    ]
    assert [line.get("detail") for line in lines[:4]] == [
        None,
        None,
        "wrong_answer: test 1 of 1: line 1 is '6' instead of '5'",
        "runtime_error: test 1 of 1: EOFError: EOF when reading a line",
    ]
    assert 0.3 < lines[4]["seconds"] < 4
    summary = run(path)
    assert "code: 8 rows: 3 pass, 1 wrong_answer, 1 runtime_error, 1 time_limit" in summary
    assert "8 rows in " in summary and " rows/s)" in summary


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tests": [STDIN]}, "prediction is 'None'; it must be a text"),
        ({"code": 5, "tests": [STDIN]}, "code is '5'; it must be a text"),
        ({"code": "x"}, "tests: expected a list of at least one test, found nothing"),
        ({"code": "x", "tests": [{"type": "file"}]}, "tests[0]: type is 'file'; choose stdin or"),
        ({"code": "x", "tests": [STDIN], "limits": {"seconds": 0}}, "limits.seconds must be a"),
    ],
)
def test_a_program_that_cannot_be_judged_is_named_by_its_line(tmp_path, row, message):
    error = fails(write(tmp_path / "a.jsonl", [ROWS[0], row | {"verifier": "code"}]))
    assert isinstance(error, DataError)
    assert f"a.jsonl:2: {message}" in str(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"prediction": "x"\n', "a.jsonl:1: not valid JSON"),
        (b'\n\n{"a": }\n', "a.jsonl:3: not valid JSON"),
        (b"\xff\xfe\n", "a.jsonl:1: not UTF-8 text (UTF-16)"),
    ],
)
def test_a_file_that_is_no_jsonl_is_named_with_the_place(tmp_path, content, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    error = fails(path)
    assert isinstance(error, DataError) and message in str(error)


def test_blank_lines_are_no_rows_and_an_empty_file_has_none(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n" + json.dumps(ROWS[0]) + "\n\n", encoding="utf-8")
    assert len(run(path, "--json").splitlines()) == 1
    path.write_text("", encoding="utf-8")
    assert run(path, "--json") == ""
    assert "no rows" in run(path)


def test_from_the_shell_a_bad_row_ends_with_2_one_message_and_no_verdicts(tmp_path):
    path = write(tmp_path / "a.jsonl", [ROWS[0], {"prediction": 1}])
    command = [sys.executable, "-m", "vibelite", "verify", str(path), "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, json.loads(result.stdout)["exit_code"]) == (2, 2)
    assert "a.jsonl:2: verifier is None" in json.loads(result.stdout)["error"]
    assert "Traceback" not in result.stderr
