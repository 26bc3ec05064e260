"""`vibelite verify`: one verdict a line, and errors with the line they are about."""

import json
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


def test_a_function_of_the_user_judges_every_row(tmp_path):
    rows = [{"prediction": "x" * 10}, {"prediction": "x" * 5}, {"prediction": "x" * 20}]
    path = write(tmp_path / "a.jsonl", rows)
    output = run(path, "--json", "--custom", f"{REWARDS}:length_of_text")
    lines = [json.loads(line) for line in output.split("\n")[:-1]]
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
        ([1], "expected an object, found list"),
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
        assert isinstance(error, RecipeError) and message in str(error)
