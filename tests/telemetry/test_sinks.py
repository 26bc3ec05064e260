"""What TensorBoard, trackio, Weights & Biases and MLflow keep of a run."""

import importlib
import importlib.util
import sqlite3
import subprocess
import sys
from types import SimpleNamespace

import pytest

from vibelite.errors import RecipeError
from vibelite.telemetry import sinks
from vibelite.telemetry.sinks import open_sinks


def test_a_missing_library_is_told_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(sinks, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"trackio is not installed.* install .*\[track\]"):
        open_sinks(["trackio"], run_dir=tmp_path, stage="sft", project="p")


def test_nothing_is_opened_unasked(tmp_path):
    assert open_sinks([], run_dir=tmp_path, stage="sft", project="p") == []


needs_trackio = pytest.mark.skipif(
    importlib.util.find_spec("trackio") is None, reason="trackio needs the extra track"
)


def read_events(path):
    accumulator = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(path))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_tensorboard_reads_every_step_of_a_stage_and_redone_ones_once(tmp_path):
    (first,) = open_sinks(["tensorboard"], run_dir=tmp_path, stage="mgpo", project="p")
    assert list(tmp_path.iterdir()) == [], "a stage without steps leaves nothing"
    for step in (1, 2, 3):
        first.log(step, {"reward/mean": step / 10, "usd/step": 1.0})
    (second,) = open_sinks(["tensorboard"], run_dir=tmp_path, stage="mgpo", project="p")
    for step in (3, 4):  # the process died after step 3 and before its checkpoint
        second.log(step, {"reward/mean": step / 5})
    found = read_events(tmp_path / "tensorboard" / "mgpo")
    expected = [(1, 0.1), (2, 0.2), (3, 0.6), (4, 0.8)]
    assert found["reward/mean"] == [(step, pytest.approx(value)) for step, value in expected]
    assert found["usd/step"] == [(1, 1.0), (2, 1.0)]


@needs_trackio
def test_trackio_keeps_the_steps_of_a_stage_on_this_machine(tmp_path, monkeypatch):
    trackio = importlib.import_module("trackio")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(trackio.utils, "TRACKIO_DIR", tmp_path / "trackio")
    monkeypatch.setattr(trackio.sqlite_storage, "TRACKIO_DIR", tmp_path / "trackio")
    run_dir = tmp_path / "trial"
    (sink,) = open_sinks(["trackio"], run_dir=run_dir, stage="mgpo", project="sums")
    sink.log(1, {"reward/mean": 0.25})
    sink.log(2, {"reward/mean": 0.5})
    trackio.finish()
    (path,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(path) as base:
        rows = base.execute("SELECT run_name, step, metrics FROM metrics ORDER BY step").fetchall()
    assert [(name, step) for name, step, _ in rows] == [("trial-mgpo", 1), ("trial-mgpo", 2)]
    assert "0.25" in str(rows[0][2])


class StandIn:
    """What the sinks call of W&B and of MLflow's client, and what they were called with."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        def call(*arguments, **options):
            self.calls.append((name, arguments, options))
            return self

        return call


def test_wandb_has_one_run_a_stage_which_a_resumed_one_goes_on_with(tmp_path, monkeypatch):
    wandb = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr(sinks, "find_spec", lambda name: True)
    opened = []
    for stage in ("mgpo", "mgpo", "sft"):
        (sink,) = open_sinks(["wandb"], run_dir=tmp_path / "trial", stage=stage, project="sums")
        sink.log(1, {"reward/mean": 0.25})
        sink.log(2, {"reward/mean": 0.5})
        (name, _, options), first, second = wandb.calls
        assert (name, options["project"], options["name"]) == ("init", "sums", f"trial-{stage}")
        assert options["resume"] == "allow" and options["group"] == "trial"
        assert first == ("log", ({"reward/mean": 0.25},), {"step": 1})
        assert second == ("log", ({"reward/mean": 0.5},), {"step": 2})
        opened.append(options["id"])
        wandb.calls.clear()
    assert opened[0] == opened[1] != opened[2]


needs_wandb = pytest.mark.skipif(
    importlib.util.find_spec("wandb") is None, reason="wandb needs the extra track"
)
needs_mlflow = pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None, reason="mlflow needs the extra mlflow"
)


def test_mlflow_gets_a_step_in_one_call(tmp_path, monkeypatch):
    client = StandIn()
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=lambda: client))
    monkeypatch.setitem(sys.modules, "mlflow.entities", SimpleNamespace(Metric=lambda *row: row))
    monkeypatch.setattr(sinks, "find_spec", lambda name: True)
    monkeypatch.setattr(sinks.MLflowSink, "_open", lambda self: "the run")
    (sink,) = open_sinks(["mlflow"], run_dir=tmp_path / "trial", stage="mgpo", project="sums")
    sink.log(7, {"reward/mean": 0.25, "policy/loss": 0.5})
    ((name, (run,), options),) = client.calls
    assert (name, run) == ("log_batch", "the run")
    told = [(key, value, step) for key, value, _, step in options["metrics"]]
    assert told == [("reward/mean", 0.25, 7), ("policy/loss", 0.5, 7)]


WANDB = """
import pathlib, sys
from vibelite.telemetry.sinks import open_sinks
(sink,) = open_sinks(["wandb"], run_dir=pathlib.Path(sys.argv[1]), stage="mgpo", project="sums")
for step in (1, 2):
    sink.log(step, {"reward/mean": step / 4})
"""


@needs_wandb
def test_wandb_writes_offline(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    run_dir = tmp_path / "trial"
    run_dir.mkdir()
    command = [sys.executable, "-c", WANDB, str(run_dir)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (path,) = run_dir.glob("wandb/offline-run-*/*.wandb")
    assert b"reward/mean" in path.read_bytes(), done.stderr


@needs_mlflow
def test_mlflow_keeps_the_steps_and_a_resumed_stage_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for steps in ((1, 2), (3,)):
        names = {"run_dir": tmp_path / "trial", "stage": "mgpo", "project": "sums"}
        (sink,) = open_sinks(["mlflow"], **names)
        for step in steps:
            sink.log(step, {"reward/mean": step / 4})
    client = importlib.import_module("mlflow").MlflowClient()
    experiment = client.get_experiment_by_name("sums")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "trial-mgpo"
    history = client.get_metric_history(run.info.run_id, "reward/mean")
    assert [(one.step, one.value) for one in history] == [(1, 0.25), (2, 0.5), (3, 0.75)]
