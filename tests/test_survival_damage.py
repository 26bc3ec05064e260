"""Deleted and damaged files of a run: named, never used, and nothing else is lost."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from tests.integration.test_pipeline import run
from tests.survival import at_step, outcome, run_command
from vibelite.storage import CHECKSUMS_NAME, damage_of

EVERY_STEP = ("stages.sft.checkpoint_every=2", "stages.mgpo.checkpoint_every=1")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """A run that ended after step 3 of 4 of its last training stage."""
    from vibelite.errors import Interrupted

    directory = tmp_path_factory.mktemp("stopped") / "run"
    with at_step(3, lambda: signal.raise_signal(signal.SIGTERM)), pytest.raises(Interrupted):
        run(directory, *EVERY_STEP)
    return directory


@pytest.fixture
def run_dir(stopped, tmp_path) -> Path:
    return shutil.copytree(stopped, tmp_path / "run")


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


FAULTS = [flip_a_byte, truncate, Path.unlink]


def test_a_damaged_state_costs_one_step_and_a_warning(run_dir, capsys, whole):
    """Every kind of damage, and all states damaged: tests/training/test_checkpoint.py."""
    resume = run_dir / "stages" / "03-mgpo" / "resume"
    assert sorted(path.name for path in resume.iterdir()) == ["step-000002", "step-000003"]
    truncate(resume / "step-000003" / "__0_0_0.distcp")
    ended = run_command(capsys, run_dir, *EVERY_STEP)
    assert ended.exit_code == 0
    told = [line for line in ended.stderr.splitlines() if line.startswith("warning")]
    (warning,) = [line for line in told if not line.startswith("warning: mgpo, step")]
    assert "mgpo/resume/step-000003/__0_0_0.distcp: is " in warning
    assert "the state after step 3 is skipped" in warning
    assert outcome(run_dir) == whole


def test_a_stage_whose_states_were_deleted_starts_again_with_a_warning(run_dir, capsys, whole):
    shutil.rmtree(run_dir / "stages" / "03-mgpo" / "resume")
    ended = run_command(capsys, run_dir, *EVERY_STEP)
    assert ended.exit_code == 0
    assert "holds no saved state, though 3 steps were recorded" in ended.stderr
    assert outcome(run_dir) == whole


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_model_of_a_finished_stage_is_named_and_can_be_restored(
    run_dir, capsys, whole, fault
):
    weights = run_dir / "stages" / "02-fuse" / "checkpoints" / "fused" / "model.safetensors"
    content = weights.read_bytes()
    fault(weights)
    ended = run_command(capsys, run_dir, *EVERY_STEP)
    assert ended.exit_code == 1
    assert ended.message.startswith(f"{weights}: is "), ended.message
    assert "restore it from a copy, or remove the directory of the stage" in ended.message
    weights.write_bytes(content)
    assert run_command(capsys, run_dir, *EVERY_STEP).exit_code == 0
    assert outcome(run_dir) == whole


def test_a_stage_whose_model_is_gone_is_made_again_when_its_directory_is_removed(
    run_dir, capsys, whole
):
    stage = run_dir / "stages" / "02-fuse"
    shutil.rmtree(stage / "checkpoints" / "fused")
    ended = run_command(capsys, run_dir, *EVERY_STEP)
    assert ended.exit_code == 1
    assert ended.message.startswith(f"{stage / 'checkpoints' / 'fused'}: is missing; restore it")
    shutil.rmtree(stage)
    assert run_command(capsys, run_dir, *EVERY_STEP).exit_code == 0
    assert outcome(run_dir) == whole


def test_a_probe_does_not_quietly_choose_from_fewer_checkpoints(tmp_path, capsys):
    run_dir = tmp_path / "run"
    run(run_dir, *EVERY_STEP, until="sft")
    gone = run_dir / "stages" / "00-sft" / "checkpoints" / "step-000002"
    shutil.rmtree(gone)
    ended = run_command(capsys, run_dir, *EVERY_STEP)
    assert (ended.exit_code, ended.message.startswith(f"{gone}: is missing")) == (1, True)


def test_every_model_that_a_run_keeps_can_be_checked(run_dir):
    models = [path.parent for path in run_dir.rglob("config.json")]
    assert len(models) == 6  # base, three of SFT, two of fusion
    for model in models:
        assert damage_of(model) == ""
        listed = {line.split()[1] for line in (model / CHECKSUMS_NAME).read_text().splitlines()}
        assert listed == {path.name for path in model.iterdir()} - {CHECKSUMS_NAME}
