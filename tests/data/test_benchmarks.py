"""Benchmarks from files in the form of the report's repository and of the hub."""

import json
import math
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.benchmark_files import NUM_PROBLEMS, benchmark_file, needs_benchmark_files
from tests.data.tables import benchmark, load_benchmark, write
from vibelite.data.benchmarks import (
    ANSWER,
    BENCHMARKS,
    CHOICE_FORMAT,
    MATH_FORMAT,
    TASK,
    WITH_STARTER_CODE,
    WITHOUT_STARTER_CODE,
    content_hash,
    describe_benchmark,
    problem_from_lcb_row,
)
from vibelite.errors import DataError
from vibelite.recipe.data_section import BenchmarkProblems
from vibelite.rewards.choice import PERMUTATION, check_choice, shuffled
from vibelite.rewards.code_problem import CodeTest, read_tests
from vibelite.rewards.pool import VerifierPool
from vibelite.types import Completion

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
    assert len(remote["published"]["pass_at_1"]) == 6, "one has no score there"
    assert remote["data"]["from"] == "lighteval/code_generation_lite@main"


def test_every_preset_samples_as_the_report() -> None:
    samples = {name: preset.num_samples for name, preset in BENCHMARKS.items()}
    assert samples == {
        "aime24": 64,
        "aime25": 64,
        "aime26": 64,
        "brumo25": 64,
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


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    with VerifierPool(num_workers=1) as pool:
        yield pool


def shapes(gold: str) -> Iterator[tuple[bool, str]]:
    """The gold as models write it, and its near misses."""
    for right in (gold, f"$ {gold} $", f"\\displaystyle {gold}.", f"x = {gold}"):
        yield True, right
    for wrong in ("", f"\\text{{not }} {gold}", f"{gold}, 17"):
        yield False, wrong


def wrap(boxed: str) -> str:
    return f"<think>Is it \\boxed{{7}}?</think>\nThe answer is $\\boxed{{{boxed}}}$."


@needs_benchmark_files
@pytest.mark.parametrize("name", ["aime24", "aime25", "hmmt25"])
def test_every_gold_is_right_in_all_shapes_and_its_near_misses_are_wrong(
    name: str, pool: VerifierPool
) -> None:
    expected, pending = [], []
    for problem in load_benchmark(name, benchmark_file(FILE_OF[name])):
        for right, text in shapes(problem.answer):
            expected.append((right, problem.answer, text))
            pending.append(pool.submit(problem, Completion((), (), "stop", wrap(text))))
    assert len(expected) == 30 * 7
    verdicts = [future.result(timeout=60).correct for future in pending]
    assert [
        case for case, verdict in zip(expected, verdicts, strict=True) if verdict is not case[0]
    ] == []


@needs_benchmark_files
def test_a_policy_that_always_says_a_has_a_quarter_of_gpqa() -> None:
    """198 questions x 16 samples: the standard deviation of the mean is 0.0077 if all samples are
    independent. The file itself has A as every answer.
    """
    problems = load_benchmark("gpqa", benchmark_file("gpqa"))
    assert {problem.answer for problem in problems} == {"A"}
    num_samples = 16
    shown = [shuffled(problem, 1, sample) for problem in problems for sample in range(num_samples)]
    right = [check_choice("\\boxed{A}", problem.answer).correct is True for problem in shown]
    deviation = math.sqrt(0.25 * 0.75 / len(right))
    assert abs(sum(right) / len(right) - 0.25) < 4 * deviation
    letters = [problem.answer for problem in shown]
    assert all(abs(letters.count(x) / len(letters) - 0.25) < 4 * deviation for x in "ABCD")
    assert all(sorted(problem.metadata[PERMUTATION]) == [0, 1, 2, 3] for problem in shown)
    assert all(check_choice(f"\\boxed{{{p.answer}}}", p.answer).correct for p in shown)


TESTS = json.dumps([{"input": "1\n", "output": "2\n", "testtype": "stdin"}])


def row(**values: Any) -> dict[str, Any]:
    return {
        "question_title": "Next",
        "question_content": "Print the next number.",
        "platform": "atcoder",
        "question_id": "abc1_a",
        "contest_date": "2025-03-01T00:00:00",
        "starter_code": "",
        "difficulty": "hard",
        "public_test_cases": TESTS,
        "private_test_cases": TESTS,
        "metadata": "{}",
    } | values


def test_the_prompt_is_the_benchmarks_to_the_letter() -> None:
    problem = problem_from_lcb_row(row(), "x")
    assert problem.messages == (
        {
            "role": "user",
            "content": f"{TASK}\n\n### Question:\nPrint the next number.\n\n"
            f"### Format: {WITHOUT_STARTER_CODE}\n```python\n# YOUR CODE HERE\n```\n\n{ANSWER}",
        },
    )
    starter = "class Solution:\n    def next(self, n: int) -> int:\n        "
    with_starter = problem_from_lcb_row(row(starter_code=starter), "x").messages[0]["content"]
    assert f"### Format: {WITH_STARTER_CODE}\n```python\n{starter}\n```\n\n" in with_starter


def test_a_problem_has_its_difficulty_and_its_tests() -> None:
    problem = problem_from_lcb_row(row(), "x")
    assert (problem.id, problem.subdomain, problem.verifier) == ("abc1_a", "hard", "code")
    assert read_tests(problem).tests == (CodeTest("1\n", "2\n"), CodeTest("1\n", "2\n"))
    assert problem_from_lcb_row(row(difficulty=None), "x").subdomain == "all"


def test_only_contests_of_the_window_count_its_ends_included(tmp_path: Path) -> None:
    dates = ["2025-01-31T23:59:59", "2025-02-01", "2025-03-01", "2025-05-01T14:00:00", "2025-05-02"]
    rows = [row(question_id=f"abc{n}", contest_date=date) for n, date in enumerate(dates)]
    path = write(tmp_path / "a.jsonl", rows)
    assert [problem.id for problem in load_benchmark("lcb-v6", path)] == ["abc1", "abc2", "abc3"]
    assert [problem.id for problem in load_benchmark("lcb-v5", path)] == ["abc0", "abc1"]
    with pytest.raises(DataError, match="no rows in the window"):
        load_benchmark("lcb-v5", write(path, [row(contest_date="2024-07-31")]))


def test_the_hash_covers_the_tests(tmp_path: Path) -> None:
    first = load_benchmark("lcb-v6", write(tmp_path / "a.jsonl", [row()]))
    other = load_benchmark(
        "lcb-v6", write(tmp_path / "b.jsonl", [row(private_test_cases="eJx...")])
    )
    assert other[0].metadata["private_test_cases"] == "eJx..."
    assert content_hash(first) != content_hash(other)


def test_a_row_that_cannot_be_used_is_named_by_file_and_line(tmp_path: Path) -> None:
    for values, message in [
        ({"public_test_cases": "["}, "public_test_cases: not valid JSON"),
        ({"public_test_cases": '[{"input": "1"}]'}, r"public_test_cases\[0\]: output is nothing"),
        ({"metadata": "[1]"}, "metadata: expected a JSON object"),
        ({"question_id": 5}, "no text in question_id; there are: question_title"),
        ({"contest_date": None}, "no contest_date, and only .* counts"),
        ({"question_id": "abc1_a"}, "id 'abc1_a' was used by .*a.jsonl:1"),
    ]:
        rows = [row(), row(question_id="abc1_b"), row(**{"question_id": "c"} | values)]
        with pytest.raises(DataError, match=f"a.jsonl:3: {message}"):
            load_benchmark("lcb-v6", write(tmp_path / "a.jsonl", rows))


def test_a_directory_holds_the_files_of_all_releases_up_to_the_benchmarks(tmp_path: Path) -> None:
    names = ["test.jsonl", *(f"test{number}.jsonl" for number in range(2, 7))]
    for name in names:
        write(tmp_path / name, [row(question_id=name, contest_date="2025-02-01")])
    assert [problem.id for problem in load_benchmark("lcb-v6", tmp_path)] == names
    assert [problem.id for problem in load_benchmark("lcb-v5", tmp_path)] == names[:5]
    with open(tmp_path / "test4.jsonl", "a") as file:
        file.write('\n{"question_id"\n')
    with pytest.raises(DataError, match="test4.jsonl:3: not valid JSON"):
        load_benchmark("lcb-v6", tmp_path)
    (tmp_path / "test3.jsonl").unlink()
    with pytest.raises(DataError, match="test3.jsonl: there is no such file"):
        load_benchmark("lcb-v6", tmp_path)
    with pytest.raises(DataError, match="is a directory; aime25 is one file"):
        load_benchmark("aime25", tmp_path)


def test_rows_outside_of_the_window_are_not_kept_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    old = row(contest_date="2024-01-01", private_test_cases="x" * 1_000_000)
    write(path, [*(old | {"question_id": str(number)} for number in range(50)), row()])
    tracemalloc.start()
    problems = load_benchmark("lcb-v6", path)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [problem.id for problem in problems] == ["abc1_a"]
    assert peak_bytes < 10_000_000
