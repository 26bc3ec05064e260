"""How far two runs are apart, where every bit must be the same and where it need not."""

import hashlib
from typing import Any

import pytest

from vibelite.run_dir import RunDir, read_json, write_json_atomic
from vibelite.telemetry.outcome import (
    compare_outcomes,
    describe_steps,
    expects_same_bits,
    record_outcome,
)


def test_speeds_are_no_part_of_what_must_be_the_same():
    def steps(speed: float, reward: float) -> list[dict[str, Any]]:
        metrics = {"reward/mean": reward, "rollout/tokens_per_second": speed}
        return [{"step": 1, "metrics": metrics, "tokens": {"generated": 5}, "seconds": speed}]

    first = describe_steps(steps(10.0, 0.5))
    assert first == describe_steps(steps(11.0, 0.5))
    assert first["sha256"] != describe_steps(steps(10.0, 0.5000000001))["sha256"]


def test_the_means_are_those_of_the_last_ten_steps():
    rows = [
        {"step": step, "metrics": {"sft/loss": float(step)}, "tokens": {}} for step in range(1, 31)
    ]
    assert describe_steps(rows)["metrics"]["sft/loss"]["mean"] == 25.5
    assert describe_steps([])["metrics"] == {}


def test_only_finished_stages_are_part_of_the_outcome(tmp_path):
    run = RunDir(tmp_path)
    record_outcome(run, [])
    assert not (tmp_path / "manifest.json").exists()
    write_json_atomic(tmp_path / "manifest.json", {"seed": 4})
    for index, name in enumerate(("sft", "mgpo")):
        stage = run.stage(index, name)
        model = stage.checkpoints / "last"
        model.mkdir(parents=True)
        (model / "model.safetensors").write_bytes(name.encode())
    run.find_stage("sft").finish(models={"sft": run.find_stage("sft").checkpoints / "last"})
    record_outcome(run, [])
    manifest = read_json(tmp_path / "manifest.json")
    assert manifest["seed"] == 4
    assert list(manifest["outcome"]["stages"]) == ["sft"]
    digest = hashlib.sha256(b"sft").hexdigest()
    assert manifest["outcome"]["weights_sha256"] == {"sft": digest}


def environment(**values: Any) -> dict[str, Any]:
    return {
        "git": {"commit": "a" * 40},
        "python": "3.11.9",
        "cuda": None,
        "num_threads": 1,
        "hardware": {"cpu": "one", "gpus": []},
        "versions": {"torch": "2.13.0"},
    } | values


@pytest.mark.parametrize(
    "other",
    [
        {"versions": {"torch": "2.13.1"}},
        {"num_threads": 2},
        {"hardware": {"cpu": "another", "gpus": []}},
        {"git": {"commit": "b" * 40}},
    ],
)
def test_bits_are_expected_of_the_same_program_on_the_same_processor_only(other):
    assert expects_same_bits(environment(), environment())
    assert not expects_same_bits(environment(), environment(**other))
    gpu = environment(hardware={"cpu": "one", "gpus": [{"name": "H100"}]})
    assert not expects_same_bits(gpu, gpu)


def outcome(pass_at_1: float, reward: float) -> dict[str, Any]:
    metrics = {"reward/mean": {"mean": reward, "sd": 0.03}}
    row = {"stage": "mgpo", "benchmark": "held-out", "pass_at_1": pass_at_1}
    return {
        "stages": {"mgpo": {"num_steps": 20, "sha256": str(reward), "metrics": metrics}},
        "results": [row | {"pass_at_1_ci": [pass_at_1 - 0.03, pass_at_1 + 0.05]}],
        "weights_sha256": {"mgpo": str(reward)},
    }


def test_within_bands_half_widths_and_deviations_decide():
    # Joint half-width: sqrt(2) x 0.04 = 0.0566; joint deviation x 2: sqrt(2) x 0.06 = 0.0849.
    original = outcome(0.5, 0.40)
    for other, expected in [
        (outcome(0.55, 0.48), [True, True]),
        (outcome(0.56, 0.48), [True, False]),
        (outcome(0.55, 0.49), [False, True]),
    ]:
        drifts = compare_outcomes(original, other, same_bits=False)
        assert [drift.is_same for drift in drifts] == expected
        assert drifts[1].band == "+-0.0566"


def test_what_the_replica_does_not_have_is_missing():
    empty = {"stages": {}, "results": [], "weights_sha256": {}}
    for same_bits in (False, True):
        drifts = compare_outcomes(outcome(0.5, 0.4), empty, same_bits=same_bits)
        assert drifts and not any(drift.is_same for drift in drifts)
        assert {drift.replica for drift in drifts} == {"missing"}
