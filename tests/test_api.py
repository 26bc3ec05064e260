import json
import shutil
from pathlib import Path

import pandas
import pytest

import vibelite
from tests.integration.test_pipeline import RECIPE
from vibelite import api
from vibelite.errors import RecipeError, VibeLiteError
from vibelite.recipe.load import load_recipe

ROWS = [{"prompt": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(50)]


def score(problem, completion_text):
    import math

    return math.sqrt(float(problem.answer in completion_text))


def outside(problem, completion_text):
    return float(len(ROWS) > 1)


@pytest.mark.xdist_group("nano")
def test_a_run_that_ended_is_given_with_its_tables(tmp_path, nano_run, capfd):
    directory = shutil.copytree(nano_run, tmp_path / "run")
    run = vibelite.train(RECIPE, run_dir=directory)
    summary = json.loads((directory / "summary.json").read_text())
    assert list(run.results["pass_at_1"]) == [row["pass_at_1"] for row in summary["results"]]
    assert set(run.steps["stage"]) == {"sft", "mgpo"}
    assert len(run.samples)
    assert run.report.exists()
    assert "pass_at_1" in run._repr_html_()


def test_what_the_command_refuses_is_an_error_with_its_message(tmp_path):
    with pytest.raises(VibeLiteError, match="unknown key") as refused:
        vibelite.train(RECIPE, run_dir=tmp_path / "run", settings={"stages.mgpo.lr": 1e-5})
    assert refused.value.exit_code == 2
    with pytest.raises(VibeLiteError, match="no-such-gpu"):
        vibelite.plan(RECIPE, gpu="no-such-gpu")


def test_a_plan_is_what_the_command_says():
    plan = vibelite.plan(RECIPE, gpu="cpu", settings={"stages.mgpo.num_steps": 7})
    assert [stage["num_steps"] for stage in plan["stages"] if stage["stage"] == "mgpo"] == [7]


@pytest.mark.parametrize("make", [list, iter, pandas.DataFrame], ids=["rows", "iterator", "frame"])
def test_rows_and_a_function_become_a_recipe(tmp_path, make):
    path, directory = api._recipe(None, tmp_path / "sums", make(ROWS), score, {"gpu": "cpu"})
    recipe = load_recipe(path)
    assert directory == tmp_path / "sums"
    assert [stage.kind for stage in recipe.stages] == ["mgpo", "evaluate", "export"]
    written = (path.parent / "problems.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in written] == ROWS
    names: dict = {}
    exec((path.parent / "reward.py").read_text(), names)
    assert names["score"] is not score


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (outside, "uses ROWS from outside"),
        (lambda problem, text: 1.0, "as a function"),
        (len, "builtin"),
    ],
)
def test_a_function_that_cannot_stand_alone_is_refused(tmp_path, reward, message):
    with pytest.raises(RecipeError, match=message):
        api._reward_file(reward, tmp_path)


def test_a_recipe_and_what_to_write_one_from_exclude_each_other(tmp_path):
    with pytest.raises(RecipeError, match="not both"):
        vibelite.train(RECIPE, problems=ROWS)
    with pytest.raises(RecipeError, match="run_dir"):
        vibelite.train(problems=ROWS)


def test_every_mistake_of_a_command_is_told():
    settings = {"stages.mgpo.lr": 1e-5, "stages.sft.num_step": 5}
    with pytest.raises(VibeLiteError) as refused:
        vibelite.plan(RECIPE, settings=settings)
    assert all(f"--set {key}=" in str(refused.value) for key in settings)


def test_a_run_lies_where_the_recipe_s_file_says_unless_told_otherwise(tmp_path):
    assert api._recipe("mine/sums.yaml", None, None, None, {})[1] == Path("runs/sums")
    assert api._recipe("mine/sums.yaml", tmp_path, None, None, {})[1] == tmp_path


def test_only_what_there_is_can_be_imported():
    with pytest.raises(AttributeError, match="no 'nothing'"):
        vibelite.nothing  # noqa: B018
