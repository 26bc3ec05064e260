"""Benchmarks from files in the form of the report's repository and of the hub."""

from pathlib import Path
from typing import Any

import pytest

from tests.benchmark_files import NUM_PROBLEMS, benchmark_file, needs_benchmark_files
from tests.data.tables import benchmark, load_benchmark, write
from vibelite.data.benchmarks import (
    BENCHMARKS,
    CHOICE_FORMAT,
    MATH_FORMAT,
    content_hash,
    describe_benchmark,
)
from vibelite.errors import DataError
from vibelite.recipe.data_section import BenchmarkProblems

FILE_OF = {"aime24": "aime", "aime25": "aime25", "hmmt25": "hmmt25", "gpqa": "gpqa"}


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


@pytest.mark.parametrize("gold", [70, "070"])
def test_a_parquet_file_in_the_reports_form(gold: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "mine.parquet", report_rows("Find x.", gold))
    problems = load_benchmark("aime25", path)
    assert [problem.id for problem in problems] == ["aime25/0", "aime25/1", "aime25/2"]
    assert problems[1].messages == ({"role": "user", "content": "Find x. (1)"},)
    assert {(problem.answer, problem.verifier) for problem in problems} == {(str(gold), "math")}
    assert len(load_benchmark("aime25", path, num_problems=2)) == 2


def test_rows_in_the_hubs_form_get_the_answer_format(tmp_path: Path) -> None:
    rows = [{"id": 60, "problem": "Find x.", "solution": "It is 2.", "answer": "2"}]
    (problem,) = load_benchmark("math500", write(tmp_path / "a.jsonl", rows))
    assert problem.messages[0]["content"] == f"Find x. {MATH_FORMAT}"
    assert problem.answer == "2"


def test_gpqa_rows_of_the_hub_become_the_reports_form(tmp_path: Path) -> None:
    row = {"Question": "Which one?\n", "Correct Answer": " gold\n", "Other": 1}
    row |= {f"Incorrect Answer {n}": f"wrong {n}" for n in (1, 2, 3)}
    (problem,) = load_benchmark("gpqa", write(tmp_path / "a.jsonl", [row]))
    assert problem.messages[0]["content"] == (
        f"Which one?\n\nA. gold\nB. wrong 1\nC. wrong 2\nD. wrong 3\n\n{CHOICE_FORMAT}"
    )
    assert (problem.answer, problem.verifier) == ("A", "choice")
    del row["Incorrect Answer 2"]
    with pytest.raises(DataError, match=r"a.jsonl:1: no text in Incorrect Answer 2"):
        load_benchmark("gpqa", write(tmp_path / "a.jsonl", [row]))


def test_an_unreadable_gold_and_unknown_columns_are_errors_with_the_line(tmp_path: Path) -> None:
    rows = report_rows("Find x.", "2", 1) + report_rows("Find x.", "", 1)
    with pytest.raises(DataError, match=r"a.jsonl:2: reward_model.ground_truth"):
        load_benchmark("aime24", write(tmp_path / "a.jsonl", rows))
    with pytest.raises(DataError, match=r"a.jsonl:1: no column 'prompt'"):
        load_benchmark("aime24", write(tmp_path / "a.jsonl", [{"frage": "?"}]))


def test_the_hash_tells_contents_apart(tmp_path: Path) -> None:
    first = load_benchmark("aime25", write(tmp_path / "a.jsonl", report_rows("Find x.", 70)))
    same = load_benchmark("aime25", write(tmp_path / "b.jsonl", report_rows("Find x.", "70")))
    other = load_benchmark("aime25", write(tmp_path / "c.jsonl", report_rows("Find x.", 71)))
    assert content_hash(first) == content_hash(same) != content_hash(other)


def test_a_score_says_what_it_was_measured_on(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", report_rows("Find x.", 70))
    problems = load_benchmark("aime25", path)
    described = describe_benchmark(benchmark("aime25", path), problems)
    assert described["data"] == {
        "sha256": content_hash(problems),
        "num_problems": 3,
        "name": "AIME 2025",
        "official_num_problems": 30,
        "window": None,
        "from": "mine.jsonl",
    }
    assert described["published"]["pass_at_1"]["VibeThinker-1.5B"] == 0.744
    remote = describe_benchmark(BenchmarkProblems(source="benchmark", name="lcb-v6"), problems)
    assert remote["data"]["window"] == ["2025-02-01", "2025-05-01"]
    assert len(remote["published"]["pass_at_1"]) == 4, "one has no score there"
    assert remote["data"]["from"] == "lighteval/code_generation_lite@main"


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


@needs_benchmark_files
@pytest.mark.parametrize(("name", "file"), FILE_OF.items())
def test_the_public_files_load_whole(name: str, file: str) -> None:
    problems = load_benchmark(name, benchmark_file(file))
    assert len(problems) == NUM_PROBLEMS[file] == BENCHMARKS[name].num_problems
    assert {problem.verifier for problem in problems} == {BENCHMARKS[name].kind}
    assert all("\\boxed{}" in problem.messages[-1]["content"] for problem in problems)
