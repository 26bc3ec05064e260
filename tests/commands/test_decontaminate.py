"""`vibelite decontaminate` through the command line."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.benchmark_files import NUM_PROBLEMS, benchmark_file, needs_benchmark_files
from vibelite import cli

EXAM = "Two runners start at opposite ends of a straight track of 400 meters; when do they meet?"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command; exit code, stdout and stderr."""

    def call(*arguments: str | Path) -> tuple[Any, str, str]:
        monkeypatch.setattr(sys, "argv", ["vibelite", "decontaminate", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return call


@pytest.fixture
def train(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    texts = ["What is 2 times 3?", f"Once more: {EXAM.upper()}", "What is 3 times 4?"]
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    return path


def write_exam(path: Path, text: str) -> Path:
    path.write_text(json.dumps({"prompt": text}) + "\n")
    return path


def test_the_summary_is_one_json_object_and_the_report_has_every_reason(
    run: Any, train: Path, tmp_path: Path
) -> None:
    first = write_exam(tmp_path / "a.jsonl", "What is the sum of all primes that divide 2025?")
    second = write_exam(tmp_path / "b.jsonl", EXAM)
    output, report = tmp_path / "clean.jsonl", tmp_path / "why.json"
    # Both ways of naming several files.
    arguments = ("--against", first, second, "-o", output, "--report", report, "--json")
    code, out, err = run(train, *arguments)
    assert (code, err) == (0, "")
    summary = json.loads(out)
    assert (summary["num_rows"], summary["num_dropped"], summary["num_kept"]) == (3, 1, 2)
    assert summary["by_set"] == {str(second): 1}
    assert [item["num_items"] for item in summary["against"]] == [1, 1]
    (dropped,) = json.loads(report.read_text())["dropped"]
    assert (dropped["id"], dropped["item"]) == ("train/1", "b/0")
    assert dropped["text"].startswith("two runners start at opposite ends of")
    assert len(output.read_text().splitlines()) == 2


def test_the_plain_summary_names_what_went_and_where_the_report_is(
    run: Any, train: Path, tmp_path: Path
) -> None:
    exam = write_exam(tmp_path / "exam.jsonl", EXAM)
    code, out, _ = run(train, "--against", exam, "--output", tmp_path / "clean.jsonl")
    assert code == 0
    assert "train/1  ngram  exam/0  two runners start" in out
    assert "3 rows, 1 dropped (1 ngram), 2 kept" in out
    assert (tmp_path / "clean.jsonl.report.json").is_file()


def test_wrong_arguments_are_one_line_and_code_2(run: Any, train: Path, tmp_path: Path) -> None:
    exam = write_exam(tmp_path / "exam.jsonl", EXAM)
    before = exam.read_text()
    code, _, err = run(train, "--against", exam, "-o", exam)
    assert code == 2
    assert err == f"--output {exam}: is one of the inputs; name another file\n"
    assert exam.read_text() == before
    code, _, err = run(train, "--against", tmp_path / "none.jsonl", "-o", tmp_path / "o.jsonl")
    assert code == 2
    assert err.startswith(f"--against {tmp_path / 'none.jsonl'}: no such file")
    code, _, err = run(train, "--against", exam, "-o", tmp_path / "o.parquet")
    assert code == 2
    assert "must end in .jsonl" in err


@needs_benchmark_files
def test_the_public_files_against_each_other(run: Any, tmp_path: Path) -> None:
    files = [benchmark_file(name) for name in NUM_PROBLEMS]
    report = tmp_path / "report.json"
    output = tmp_path / "clean.parquet"
    code, out, _ = run(files[3], "--against", *files, "-o", output, "--report", report, "--json")
    assert code == 0
    assert json.loads(out)["num_kept"] == 0
    code, out, _ = run(files[3], "--against", *files[:3], "-o", output, "--json")
    assert code == 0
    assert json.loads(out)["num_dropped"] == 0
