"""What TensorBoard keeps of a run."""

import importlib

import pytest

from vibelite.errors import RecipeError
from vibelite.telemetry import progress
from vibelite.telemetry.progress import TensorBoardSink


def test_a_missing_library_is_told_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"tensorboard is not installed.* install .*\[track\]"):
        TensorBoardSink(tmp_path, "sft")


def read_events(path):
    accumulator = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(path))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_tensorboard_reads_every_step_of_a_stage_and_redone_ones_once(tmp_path):
    first = TensorBoardSink(tmp_path, "mgpo")
    assert list(tmp_path.iterdir()) == [], "a stage without steps leaves nothing"
    for step in (1, 2, 3):
        first.log(step, {"reward/mean": step / 10, "usd/step": 1.0})
    second = TensorBoardSink(tmp_path, "mgpo")
    for step in (3, 4):  # the process died after step 3 and before its checkpoint
        second.log(step, {"reward/mean": step / 5})
    found = read_events(tmp_path / "tensorboard" / "mgpo")
    expected = [(1, 0.1), (2, 0.2), (3, 0.6), (4, 0.8)]
    assert found["reward/mean"] == [(step, pytest.approx(value)) for step, value in expected]
    assert found["usd/step"] == [(1, 1.0), (2, 1.0)]
