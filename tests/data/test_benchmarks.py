"""Benchmarks from files in the form of the report's repository and of the hub."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from tests.benchmark_files import NUM_PROBLEMS, benchmark_file, needs_benchmark_files
from vibelite.data.benchmarks import (
    BENCHMARKS,
    CHOICE_FORMAT,
    MATH_FORMAT,
    content_hash,
    describe_benchmark,
    published_scores,
)
from vibelite.data.sources import load_problems
from vibelite.errors import DataError
from vibelite.recipe.data_section import BenchmarkProblems
from vibelite.types import Problem

FILE_OF = {"aime24": "aime", "aime25": "aime25", "hmmt25": "hmmt25", "gpqa": "gpqa"}


def source(name: str, path: Path, **values: Any) -> BenchmarkProblems:
    return BenchmarkProblems.model_validate(
        {"source": "benchmark", "name": name, "path": str(path), **values}
    )


def load(name: str, path: Path, **values: Any) -> list[Problem]:
    return load_problems(source(name, path, **values), recipe_dir=Path.cwd(), seed=0)


def report_rows(question: str, gold: Any, number: int = 3) -> list[dict[str, Any]]:
    """Rows with the columns of the report's evaluation repository."""
    return [
        {
            "data_source": "",
            "prompt": [{"content": f"{question} ({index})", "role": "user"}],
            "ability": "math",
            "reward_model": {"ground_truth": gold, "style": "rule"},
            "extra_info": {"index": index, "split": "test"},
        }
        for index in range(number)
    ]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("gold", [70, "070"])
def test_a_parquet_file_in_the_reports_form(gold: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(report_rows("Find x.", gold)), path)
    problems = load("aime25", path)
    assert [problem.id for problem in problems] == ["aime25/0", "aime25/1", "aime25/2"]
    assert problems[1].messages == ({"role": "user", "content": "Find x. (1)"},)
    assert {(problem.answer, problem.verifier) for problem in problems} == {(str(gold), "math")}
    assert len(load("aime25", path, num_problems=2)) == 2


def test_rows_in_the_hubs_form_get_the_answer_format(tmp_path: Path) -> None:
    rows = [{"id": 60, "problem": "Find x.", "solution": "It is 2.", "answer": "2"}]
    (problem,) = load("math500", write_jsonl(tmp_path / "a.jsonl", rows))
    assert problem.messages[0]["content"] == f"Find x. {MATH_FORMAT}"
    assert problem.answer == "2"


def test_gpqa_rows_of_the_hub_become_the_reports_form(tmp_path: Path) -> None:
    row = {"Question": "Which one?\n", "Correct Answer": " gold\n", "Other": 1}
    row |= {f"Incorrect Answer {n}": f"wrong {n}" for n in (1, 2, 3)}
    (problem,) = load("gpqa", write_jsonl(tmp_path / "a.jsonl", [row]))
    assert problem.messages[0]["content"] == (
        f"Which one?\n\nA. gold\nB. wrong 1\nC. wrong 2\nD. wrong 3\n\n{CHOICE_FORMAT}"
    )
    assert (problem.answer, problem.verifier) == ("A", "choice")
    del row["Incorrect Answer 2"]
    with pytest.raises(DataError, match=r"a.jsonl:1: no text in Incorrect Answer 2"):
        load("gpqa", write_jsonl(tmp_path / "a.jsonl", [row]))


def test_an_unreadable_gold_and_unknown_columns_are_errors_with_the_line(tmp_path: Path) -> None:
    rows = report_rows("Find x.", "2", 1) + report_rows("Find x.", "", 1)
    with pytest.raises(DataError, match=r"a.jsonl:2: reward_model.ground_truth"):
        load("aime24", write_jsonl(tmp_path / "a.jsonl", rows))
    with pytest.raises(DataError, match=r"a.jsonl:1: no column 'prompt'"):
        load("aime24", write_jsonl(tmp_path / "a.jsonl", [{"frage": "?"}]))


def test_the_hash_tells_contents_apart(tmp_path: Path) -> None:
    first = load("aime25", write_jsonl(tmp_path / "a.jsonl", report_rows("Find x.", 70)))
    same = load("aime25", write_jsonl(tmp_path / "b.jsonl", report_rows("Find x.", "70")))
    other = load("aime25", write_jsonl(tmp_path / "c.jsonl", report_rows("Find x.", 71)))
    assert content_hash(first) == content_hash(same) != content_hash(other)


def test_a_score_says_what_it_was_measured_on(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "mine.jsonl", report_rows("Find x.", 70))
    problems = load("aime25", path)
    described = describe_benchmark(source("aime25", path), problems)
    assert described["data"] == {
        "sha256": content_hash(problems),
        "num_problems": 3,
        "name": "AIME 2025",
        "official_num_problems": 30,
        "window": None,
        "from": "mine.jsonl",
    }
    assert described["published"]["pass_at_1"]["VibeThinker-1.5B"] == 0.744
    remote = describe_benchmark(
        BenchmarkProblems.model_validate({"source": "benchmark", "name": "lcb-v6"}), problems
    )
    assert remote["data"]["window"] == ["2025-02-01", "2025-05-01"]
    assert remote["data"]["from"] == "lighteval/code_generation_lite@main"


def test_published_scores_leave_out_what_was_not_reported() -> None:
    assert published_scores("hmmt25")["DeepSeek-R1-0120"] == 0.417
    assert "Magistral-Medium-2506" not in published_scores("hmmt25")
    assert len(published_scores("aime24")) == 12
    assert published_scores("another") == {}


def test_every_preset_samples_as_the_report() -> None:
    samples = {name: preset.num_samples for name, preset in BENCHMARKS.items()}
    assert samples == {
        "aime24": 64,
        "aime25": 64,
        "hmmt25": 64,
        "math500": 64,
        "gpqa": 16,
        "lcb-v5": 8,
        "lcb-v6": 8,
    }
    for name, preset in BENCHMARKS.items():
        assert preset.temperature == (0.6 if name.startswith("lcb") else 1.0)
        assert (preset.top_p, preset.max_new_tokens) == (0.95, 40_960)


def lcb_row(number: int, date: str, **values: Any) -> dict[str, Any]:
    """A row with the columns of LiveCodeBench."""
    tests = json.dumps([{"input": "1", "output": "2", "testtype": "stdin"}])
    row = {
        "question_title": "t",
        "question_content": f"Add {number}.",
        "platform": "atcoder",
        "question_id": f"abc{number}",
        "contest_date": f"{date}T00:00:00",
        "starter_code": "",
        "difficulty": "easy",
        "public_test_cases": tests,
        "private_test_cases": "eJx...",
        "metadata": "{}",
    }
    return row | values


def test_only_contests_of_the_window_count_its_ends_included(tmp_path: Path) -> None:
    dates = ["2025-01-31", "2025-02-01", "2025-03-01", "2025-05-01", "2025-05-02"]
    path = write_jsonl(tmp_path / "a.jsonl", [lcb_row(n, date) for n, date in enumerate(dates)])
    assert [problem.id for problem in load("lcb-v6", path)] == ["abc1", "abc2", "abc3"]
    assert [problem.id for problem in load("lcb-v5", path)] == ["abc0", "abc1"]
    with pytest.raises(DataError, match="no rows in the window"):
        load("lcb-v5", write_jsonl(path, [lcb_row(0, "2024-07-31")]))
    with pytest.raises(DataError, match=r"a.jsonl:1: no contest_date"):
        load("lcb-v5", write_jsonl(path, [lcb_row(0, "")]))


def test_a_directory_holds_the_files_of_all_releases_up_to_the_benchmarks(tmp_path: Path) -> None:
    names = ["test.jsonl", *(f"test{number}.jsonl" for number in range(2, 7))]
    for number, name in enumerate(names):
        write_jsonl(tmp_path / name, [lcb_row(number, "2025-02-01")])
    assert [problem.id for problem in load("lcb-v6", tmp_path)] == [f"abc{n}" for n in range(6)]
    assert [problem.id for problem in load("lcb-v5", tmp_path)] == [f"abc{n}" for n in range(5)]
    (tmp_path / "test3.jsonl").unlink()
    with pytest.raises(DataError, match="test3.jsonl: there is no such file"):
        load("lcb-v6", tmp_path)
    with pytest.raises(DataError, match="is a directory; aime25 is one file"):
        load("aime25", tmp_path)


def test_a_program_is_asked_for_as_the_benchmark_does_and_keeps_its_tests(tmp_path: Path) -> None:
    function = {"starter_code": "class Solution:", "metadata": json.dumps({"func_name": "add"})}
    rows = [lcb_row(0, "2025-03-01"), lcb_row(1, "2025-03-01", **function)]
    first, second = load("lcb-v6", write_jsonl(tmp_path / "a.jsonl", rows))
    assert "### Question:\nAdd 0.\n\n### Format: Read" in first.messages[0]["content"]
    assert "```python\n# YOUR CODE HERE\n```" in first.messages[0]["content"]
    assert "```python\nclass Solution:\n```" in second.messages[0]["content"]
    assert (first.metadata["func_name"], second.metadata["func_name"]) == ("", "add")
    assert (first.verifier, first.subdomain) == ("code", "easy")
    assert first.metadata["private_test_cases"] == "eJx..."
    other = load(
        "lcb-v6",
        write_jsonl(tmp_path / "b.jsonl", [row | {"private_test_cases": "x"} for row in rows]),
    )
    assert content_hash([first, second]) != content_hash(other)
    with pytest.raises(DataError, match=r"c.jsonl:1: no text in question_id"):
        load("lcb-v6", write_jsonl(tmp_path / "c.jsonl", [{"contest_date": "2025-03-01"}]))


@needs_benchmark_files
@pytest.mark.parametrize(("name", "file"), FILE_OF.items())
def test_the_public_files_load_whole(name: str, file: str) -> None:
    problems = load(name, benchmark_file(file))
    assert len(problems) == NUM_PROBLEMS[file] == BENCHMARKS[name].num_problems
    assert {problem.verifier for problem in problems} == {BENCHMARKS[name].kind}
    assert all("\\boxed{}" in problem.messages[-1]["content"] for problem in problems)
