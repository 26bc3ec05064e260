"""`vibelite samples` on a run directory with made-up curves."""

import json

import pytest
from typer.testing import CliRunner

from tests.report.conftest import HOSTILE, MODELS, RunBuilder
from vibelite.cli import app
from vibelite.errors import RecipeError
from vibelite.run_dir import RunDir


@pytest.fixture
def run_dir(tmp_path):
    builder = RunBuilder(RunDir(tmp_path))
    builder.base()
    builder.sft()
    builder.mgpo()
    builder.evaluate()
    return tmp_path


def invoke(*arguments):
    return CliRunner().invoke(app, ["samples", *map(str, arguments)], catch_exceptions=False)


def found(*arguments):
    return json.loads(invoke(*arguments, "--json").stdout)


def test_the_newest_step_of_a_stage_is_shown(run_dir):
    result = found(run_dir, "--stage", "mgpo", "--limit", 100)
    assert result["stage"] == "mgpo" and len(result["samples"]) == 32
    assert {row["step"] for row in result["samples"]} == {40}


def test_what_is_shown_can_be_chosen(run_dir):
    asked = ["--stage", "mgpo", "--step", 3, "--only", "wrong", "--subdomain", "number"]
    rows = found(run_dir, *asked)["samples"]
    assert [row["correct"] for row in rows] == [False] * 3
    assert {(row["step"], row["subdomain"]) for row in rows} == {(3, "number")}


def test_without_a_stage_the_last_that_sampled_is_shown(run_dir):
    result = found(run_dir)
    assert result["stage"] == "evaluate"
    assert {row["key"] for row in result["samples"]} == {f"held-out--{MODELS['mgpo']}"}


def test_a_model_of_an_evaluation_is_asked_for_by_its_name(run_dir):
    rows = found(run_dir, "--key", "held-out--sft", "--limit", 100)["samples"]
    assert len(rows) == 32 and {row["key"] for row in rows} == {f"held-out--{MODELS['sft']}"}
    assert found(run_dir, "--key", f"held-out--{MODELS['sft']}", "--limit", 100)["samples"] == rows


def test_model_text_cannot_command_the_terminal(run_dir):
    text = invoke(run_dir, "--stage", "mgpo", "--step", 1, "--limit", 100).stdout
    assert "<script>" in HOSTILE and "<script>" in text
    assert "\x1b" not in text and "\\x1b[31m" in text


def test_verdict_reward_and_advantage_stand_beside_the_text(run_dir):
    text = invoke(run_dir, "--stage", "mgpo", "--only", "correct", "--limit", 1).stdout
    assert "correct | reward 1 | advantage +0.700" in text and "what is x?" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stage", "mgp"], "did you mean 'mgpo'"),
        (["--stage", "sft"], "has no samples"),
        (["--stage", "mgpo", "--step", "99"], "no sample of step 99"),
        (["--stage", "mgpo", "--only", "unverifiable"], "no unverifiable sample of step 40"),
    ],
)
def test_what_is_not_there_is_said(run_dir, arguments, message):
    with pytest.raises(RecipeError, match=message):
        invoke(run_dir, *arguments)


def test_another_directory_is_no_run(tmp_path):
    with pytest.raises(RecipeError, match="not a run directory"):
        invoke(tmp_path)
