"""Sweeps: of scripted runs, for what becomes of trials, and one of real runs."""

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
from vibelite.commands import sweep_trials
from vibelite.run_dir import read_json, read_jsonl

SCRIPTED = Path(__file__).parent / "scripted_run.py"
RECIPE = """
name: swept
model: {source: tiny}
cost: {usd_per_hour: 3600, source: a second is a dollar}
data:
  problems:
    train: &problems
      {source: reasoning_gym, split: train, num_problems: 4, tasks: {all: {dataset: gcd}}}
    test: {source: reasoning_gym, split: test, num_problems: 4, tasks: {all: {dataset: gcd}}}
stages:
  - kind: mgpo
    start_from: base
    num_steps: 20
    sampling: {max_new_tokens: 8}
    optimizer: {lr: 1}
  - {kind: evaluate, benchmarks: [test], num_samples: 1, k: [], sampling: {max_new_tokens: 8}}
"""
OVER = ["--over", "stages.mgpo.maxent_lambda=6,4,0,2"]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    monkeypatch.setattr(sweep_trials, "RUN", (sys.executable, str(SCRIPTED)))
    monkeypatch.setattr(sweep_trials, "POLL_SECONDS", 0.02)
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    monkeypatch.setenv("SECONDS_PER_STEP", "0.001")
    return path


@pytest.fixture
def slow_steps(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that takes long enough to be seen and stopped before its end."""
    monkeypatch.setenv("SECONDS_PER_STEP", "0.05")


def sweep(recipe: Path, *arguments: str) -> Any:
    out = str(recipe.parent / "sweep")
    before = signal.getsignal(signal.SIGTERM)
    try:
        return CliRunner().invoke(cli.app, ["sweep", str(recipe), *arguments, "--out", out])
    finally:
        signal.signal(signal.SIGTERM, before)


def found(recipe: Path, *arguments: str) -> Any:
    done = sweep(recipe, *arguments, "--json")
    assert done.exit_code == 0, (done.exception, done.output)
    return json.loads(done.stdout)


def starts(recipe: Path, trial: str) -> list[str]:
    return (recipe.parent / "sweep" / trial / "starts").read_text().splitlines()


@pytest.mark.usefixtures("slow_steps")
def test_trials_are_runs_and_bad_curves_end_early(recipe: Path) -> None:
    result = found(recipe, *OVER)
    rows = result["trials"]
    assert [row["trial"] for row in rows] == [f"trial-{number:03d}" for number in range(4)]
    assert [row["set"]["stages.mgpo.maxent_lambda"] for row in rows] == ["6", "4", "0", "2"]
    # The first two end whatever they are; after that the median decides.
    assert [row["state"] for row in rows] == ["complete"] * 2 + ["stopped early"] * 2
    assert [row["value"] for row in rows] == [0.6, 0.4, None, None]
    assert result["best"] == "trial-000"
    warm_up = 20 * sweep_trials.WARMUP_SHARE
    assert all(warm_up <= row["last_step"] < 20 for row in rows[2:])
    page = Path(result["report"]).read_text()
    assert all(row["trial"] in page for row in rows)
    assert result["usd"] == pytest.approx(sum(row["usd"] for row in rows))
    again = found(recipe, *OVER)
    assert again["trials"] == rows and starts(recipe, "trial-002") == ["None"]


def test_the_budget_is_of_all_trials_together(recipe: Path) -> None:
    over = ["--over", "stages.mgpo.maxent_lambda=4,6"]
    stopped = sweep(recipe, *over, "--budget-usd", "150")
    assert getattr(stopped.exception, "exit_code", None) == 10
    assert "raise --budget-usd" in str(stopped.exception)
    result = found(recipe, *over, "--budget-usd", "500")
    assert [row["value"] for row in result["trials"]] == [0.4, 0.6]
    # 20 steps of $5 each; what the second one had spent before is within its own limit.
    assert [row["usd"] for row in result["trials"]] == pytest.approx([100, 100])
    assert starts(recipe, "trial-000") == ["150.0"] and result["usd"] == pytest.approx(200)
    assert list(map(float, starts(recipe, "trial-001"))) == pytest.approx([50, 400])


@pytest.mark.usefixtures("slow_steps")
def test_a_killed_sweep_goes_on_with_its_trial(recipe: Path) -> None:
    program = (
        "import sys; from vibelite import cli; from vibelite.commands import sweep_trials;"
        f"sweep_trials.RUN = (sys.executable, {str(SCRIPTED)!r}); sweep_trials.POLL_SECONDS = 0.02;"
        "cli.main()"
    )
    command = [sys.executable, "-c", program, "sweep", str(recipe), *OVER]
    process = subprocess.Popen([*command, "--out", str(recipe.parent / "sweep")])
    steps = recipe.parent / "sweep" / "trial-001" / "stages" / "00-mgpo" / "steps.jsonl"
    deadline = time.monotonic() + 60
    while not (steps.exists() and len(steps.read_text().splitlines()) > 5):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    rows = found(recipe, *OVER)["trials"]
    assert [row["value"] for row in rows[:2]] == [0.6, 0.4] and len(rows) == 4
    assert len(starts(recipe, "trial-000")) == 1 and len(starts(recipe, "trial-001")) == 2
    assert [row["step"] for row in read_jsonl(steps)] == list(range(1, 21))


def test_a_trial_that_fails_is_told_and_the_others_go_on(recipe: Path) -> None:
    done = sweep(recipe, "--over", "stages.mgpo.maxent_lambda=9,4")
    assert done.exit_code == 1
    assert "trial-000: exit code 1: this setting fails" in done.stdout
    assert "trial-001 *" in done.stdout and "0.4000" in done.stdout


def test_optuna_chooses_trials_by_what_earlier_ones_came_to(recipe: Path) -> None:
    result = found(recipe, "--over", "stages.mgpo.maxent_lambda=2,4,6,8", "--trials", "3")
    assert len(result["trials"]) == 3
    assert {row["trial"] for row in result["trials"]} == {f"trial-{n:03d}" for n in range(3)}
    more = found(recipe, "--over", "stages.mgpo.maxent_lambda=2,4,6,8", "--trials", "4")
    assert more["trials"][:3] == result["trials"] and len(more["trials"]) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--over", "stages.mgpo.maxent_lambda"], "KEY=VALUE,VALUE"),
        (["--over", "stages.mgpo.maxent_lambda=1,-1"], "stages.mgpo.maxent_lambda"),
        (["--over", "stages.mpgo.maxent_lambda=1"], "did you mean 'mgpo'"),
        ([*OVER, *OVER], "is there twice"),
        ([*OVER, "--set", "cost={}", "--budget-usd", "1"], "needs the price"),
    ],
)
def test_what_cannot_be_swept_is_said_before_anything_runs(
    recipe: Path, arguments: list[str], message: str
) -> None:
    done = sweep(recipe, *arguments)
    assert getattr(done.exception, "exit_code", None) == 2, done.exception
    assert message in str(done.exception)
    assert not (recipe.parent / "sweep").exists()


def test_another_sweep_needs_another_directory(recipe: Path) -> None:
    found(recipe, "--over", "stages.mgpo.maxent_lambda=4")
    done = sweep(recipe, "--over", "stages.mgpo.maxent_lambda=4,6")
    assert "holds a sweep of another recipe or over other values" in str(done.exception)


def test_a_real_sweep_compares_real_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    nano = Path(__file__).parent.parent / "integration" / "nano.yaml"
    settings = ["stages.sft.num_steps=2", "stages.mgpo.num_steps=2", "stages.fuse.tail_average=0"]
    settings += ["stages.evaluate.models=[mgpo]", "num_threads=1"]
    before = signal.getsignal(signal.SIGTERM)
    done = CliRunner().invoke(
        cli.app,
        ["sweep", str(nano), "--over", "seed=0,1", "--out", str(tmp_path / "sweep"), "--json"]
        + [word for setting in settings for word in ("--set", setting)],
    )
    signal.signal(signal.SIGTERM, before)
    assert done.exit_code == 0, (done.exception, done.output)
    for row in json.loads(done.stdout)["trials"]:
        run = tmp_path / "sweep" / row["trial"]
        (result,) = read_json(run / "summary.json")["results"]
        assert row["state"] == "complete" and row["value"] == result["pass_at_1"]
        assert row["seconds"] > 0 and (run / "manifest.json").exists()
