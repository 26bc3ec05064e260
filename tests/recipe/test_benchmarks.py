"""Benchmarks of the report in a recipe: to test on, never to train on."""

from pathlib import Path

import pytest

from tests.recipe.texts import write_recipe
from vibelite.errors import RecipeError
from vibelite.recipe.data_section import BenchmarkProblems
from vibelite.recipe.load import load_recipe

EXAM = "    exam: {source: benchmark, name: aime25, path: mine.parquet}"


def test_a_benchmark_is_a_problem_set_that_stages_test_on(tmp_path: Path) -> None:
    (tmp_path / "mine.parquet").touch()
    path = write_recipe(
        tmp_path, line_5=f"  problems:\n{EXAM}", line_34="    benchmarks: [test, exam]"
    )
    exam = load_recipe(path).data.problems["exam"]
    assert isinstance(exam, BenchmarkProblems)
    assert (exam.name, exam.path, exam.num_problems) == ("aime25", "mine.parquet", None)


def test_training_on_a_benchmark_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.parquet").touch()
    path = write_recipe(tmp_path, line_5=f"  problems:\n{EXAM}", line_30="    problems: exam")
    with pytest.raises(RecipeError, match="'exam' is a benchmark; training on it would spoil"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        ("name: aime26", "name"),
        ("name: aime25, path: none.parquet", "path: there is no .*none.parquet"),
    ],
)
def test_unknown_names_and_missing_files_are_reported_in_place(
    spoiled: str, message: str, tmp_path: Path
) -> None:
    exam = f"  problems:\n    exam: {{source: benchmark, {spoiled}}}"
    with pytest.raises(RecipeError, match=rf"recipe.yaml:6:\d+: data.problems.exam.{message}"):
        load_recipe(write_recipe(tmp_path, line_5=exam))
