"""Sweeps: of a stand-in for `vibelite run`, for what becomes of trials, and one of real runs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vibelite import cli
from vibelite.run_dir import read_json
from vibelite.tools import sweep as tool

RECIPE = """
name: swept
model: {source: tiny}
cost: {usd_per_hour: 3600, source: a second is a dollar}
data:
  problems:
    train: {source: reasoning_gym, split: train, num_problems: 4, tasks: {all: {dataset: gcd}}}
stages:
  - kind: mgpo
    start_from: base
    num_steps: 2
    sampling: {max_new_tokens: 8}
    optimizer: {lr: 1}
"""
# Notes what it was told in its run directory, waits to be stopped where lambda is 8, fails where it
# is 9, and else ends its only stage.
STAND_IN = """
import json, signal, sys, time
from pathlib import Path
from vibelite.recipe.load import dump_resolved, load_recipe
words = sys.argv[1:]
settings = dict(words[i + 1].split("=", 1) for i, word in enumerate(words) if word == "--set")
run = Path(words[words.index("--run-dir") + 1])
(run / "stages" / "00-mgpo").mkdir(parents=True, exist_ok=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
with open(run / "told", "a") as file:
    file.write(json.dumps(settings) + "\\n")
strength = settings["stages.mgpo.maxent_lambda"]
if strength == "8":
    time.sleep(60)
if strength == "9":
    sys.exit("this setting fails")
(run / "recipe.resolved.yaml").write_text(dump_resolved(load_recipe(Path(words[0]))))
(run / "stages" / "00-mgpo" / "status.json").write_text('{"models": {}}')
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setattr(tool, "RUN", (sys.executable, str(tmp_path / "stand_in.py")))
    return tmp_path / "recipe.yaml"


def sweep(recipe: Path, *arguments: str) -> Any:
    out = str(recipe.parent / "sweep")
    return CliRunner().invoke(cli.app, ["sweep", str(recipe), *arguments, "--out", out])


def told(recipe: Path, trial: str) -> list[dict[str, str]]:
    lines = (recipe.parent / "sweep" / trial / "told").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_every_combination_is_a_run_and_none_runs_twice(recipe):
    over = ["--over", "stages.mgpo.maxent_lambda=0,4", "--over", "seed=1,2", "--json"]
    done = sweep(recipe, *over, "--set", "stages.mgpo.num_steps=1")
    assert done.exit_code == 0, (done.exception, done.output)
    found = json.loads(done.stdout)
    names = [f"mgpo.maxent_lambda={a},seed={b}" for a in (0, 4) for b in (1, 2)]
    assert [row["trial"] for row in found["trials"]] == names
    given = {"stages.mgpo.num_steps": "1", "stages.mgpo.maxent_lambda": "4", "seed": "1"}
    assert told(recipe, names[2]) == [given]
    page = Path(found["report"]).read_text()
    assert all(name in page for name in names)
    sweep(recipe, *over, "--set", "stages.mgpo.num_steps=1")
    assert len(told(recipe, names[0])) == 1


def test_a_trial_that_fails_is_told_and_the_others_go_on(recipe):
    done = sweep(recipe, "--over", "stages.mgpo.maxent_lambda=9,4")
    assert done.exit_code == 1
    assert "exit code 1: this setting fails" in done.stdout
    assert len(told(recipe, "mgpo.maxent_lambda=4")) == 1


def test_the_budget_is_of_all_trials_together(recipe, monkeypatch):
    """Every trial that was told to run has spent $40."""
    monkeypatch.setattr(tool, "spent_usd", lambda trial: 40.0 * (trial.directory / "told").exists())
    over = ["--over", "stages.mgpo.maxent_lambda=1,2,3"]
    stopped = sweep(recipe, *over, "--budget-usd", "75")
    assert getattr(stopped.exception, "exit_code", None) == 10
    assert "raise --budget-usd" in str(stopped.exception)
    budgets = [told(recipe, f"mgpo.maxent_lambda={n}")[0]["budget.usd"] for n in (1, 2)]
    # The sweep's own limit is among the settings of all; the later --set counts.
    assert budgets == ["75.0", "35.0"]
    assert not (recipe.parent / "sweep" / "mgpo.maxent_lambda=3").exists()
    assert sweep(recipe, *over, "--budget-usd", "100").exit_code == 0
    assert told(recipe, "mgpo.maxent_lambda=3")[0]["budget.usd"] == "20.0"


def test_a_sweep_that_is_told_to_stop_lets_its_trial_save(recipe):
    program = (
        "from vibelite import cli; from vibelite.tools import sweep;"
        f"sweep.RUN = {tool.RUN!r}; cli.main()"
    )
    out = recipe.parent / "sweep"
    command = [sys.executable, "-c", program, "sweep", str(recipe), "--out", str(out)]
    over = ["--over", "stages.mgpo.maxent_lambda=8"]
    process = subprocess.Popen([*command, *over], stderr=subprocess.PIPE, text=True)
    while not (out / "mgpo.maxent_lambda=8" / "told").exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 75
    assert f"the same command goes on in {out}" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--over", "stages.mgpo.maxent_lambda"], "KEY=VALUE,VALUE"),
        (["--over", "stages.mgpo.maxent_lambda=1,-1"], "stages.mgpo.maxent_lambda"),
        (["--over", "stages.mpgo.maxent_lambda=1"], "did you mean 'mgpo'"),
        (["--over", "seed=1", "--over", "seed=2"], "is there twice"),
        (["--over", "seed=1", "--set", "cost={}", "--budget-usd", "1"], "needs the price"),
    ],
)
def test_what_cannot_be_swept_is_said_before_anything_runs(recipe, arguments, message):
    done = sweep(recipe, *arguments)
    assert getattr(done.exception, "exit_code", None) == 2, done.exception
    assert message in str(done.exception)
    assert not (recipe.parent / "sweep").exists()


def test_a_real_sweep_compares_real_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    nano = Path(__file__).parent.parent / "integration" / "nano.yaml"
    settings = ["stages.sft.num_steps=2", "stages.mgpo.num_steps=2", "stages.fuse.tail_average=0"]
    settings += ["stages.evaluate.models=[mgpo]", "num_threads=1"]
    done = CliRunner().invoke(
        cli.app,
        ["sweep", str(nano), "--over", "stages.mgpo.maxent_lambda=0,4"]
        + ["--out", str(tmp_path / "sweep")]
        + [word for setting in settings for word in ("--set", setting)],
    )
    assert done.exit_code == 0, (done.exception, done.output)
    names = ["mgpo.maxent_lambda=0", "mgpo.maxent_lambda=4"]
    for name in names:
        run = tmp_path / "sweep" / name
        (result,) = read_json(run / "summary.json")["results"]
        assert f"{name}  {result['pass_at_1']:.4f}" in done.stdout
        assert (run / "manifest.json").exists()
    assert f"{names[1]} - {names[0]}" in done.stdout
