"""The measurements of vLLM in the trainer's process, and of a step beside TRL's, in small."""

import argparse
import json

import pytest

from benchmarks.gpu_step_vs_trl import make_model, summary
from benchmarks.gpu_step_vs_trl import run_all as run_steps
from benchmarks.gpu_suite import ON_REQUEST, run_one
from benchmarks.gpu_vllm_parts import Notes


def test_a_failed_measurement_is_noted_and_the_next_one_is_kept(tmp_path):
    notes = Notes(tmp_path / "part.json")
    assert notes.measure("first", lambda: 1 / 0) is None
    assert notes.measure("second", lambda: {"seconds": 1.5}) == {"seconds": 1.5}
    kept = json.loads((tmp_path / "part.json").read_text())
    assert kept["first"]["failed"] == "ZeroDivisionError: division by zero"
    assert kept["second"]["seconds"] == 1.5


def test_the_warm_up_is_not_counted_and_short_completions_are_refused():
    work = {"prompts": [[1], [2]], "group_size": 2, "max_new_tokens": 10}
    steps = [{"seconds": s, "tokens": 40, "generate": s / 2} for s in (9.0, 2.0, 4.0, 1.0)]
    result = summary(steps, work)
    assert (result["step_seconds"], result["step_range"]) == (2.0, [1.0, 4.0])
    assert result["tokens_per_second"] == 20.0
    with pytest.raises(AssertionError, match="fixed length"):
        summary([*steps, steps[1] | {"tokens": 39}], work)
    assert summary(steps[:1], work) == {}


def test_a_step_of_ours_is_measured_and_a_rival_that_cannot_start_is_a_row(tmp_path):
    make_model(tmp_path / "model", tiny=True)
    options = argparse.Namespace(
        out=tmp_path / "steps.json", cases=["1024"], sides=["vibelite", "trl-default"], rounds=1,
        engine="transformers", seconds=200.0, each=200.0, tiny=True, trl_python="no-such-python",
    )  # fmt: skip
    rows = run_steps(tmp_path / "model", options, tmp_path)
    assert [row["side"] for row in rows] == ["vibelite", "trl-default"]
    assert rows[0]["tokens_per_second"] > 0 and "failed" not in rows[0]
    assert "no-such-python" in rows[1]["failed"]
    assert len(json.loads(options.out.read_text())["rows"]) == 2


@pytest.mark.vllm
def test_every_measurement_of_an_engine_with_its_own_weights_succeeds(tmp_path):
    (one,) = (one for one in ON_REQUEST if one.name == "vllm-copy")
    row = run_one(one, 200.0, tmp_path / "out.json", tiny=True)
    assert row["state"] == "done", row
    measured = row["result"]
    assert measured["mismatch_after_updates"]["mismatch/max_abs"] < 1e-5
    assert "a sync was skipped" in measured["planted_fault"]["message"]
    assert measured["cycles"]["copied_bytes"] == measured["policy"]["weight_bytes"]
