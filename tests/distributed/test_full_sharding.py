"""Real processes that hold the weights in pieces: the same run as a single one, whose states both
resume. Tolerances: `test_ranks.py`.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.rank_runs import command_of, kill_and_resume, run_curve, steps_of
from tests.distributed.test_ranks import require_same

pytestmark = pytest.mark.slow
FULL = "full"


def test_weights_in_pieces_train_as_whole_ones(alone: Path, tmp_path: Path) -> None:
    """Three processes do not divide the rows of most weights, nor the micro-batches."""
    run_dir = tmp_path / "three"
    assert run_curve(3, run_dir, FULL).get("status") != "failed"
    require_same(run_dir, alone)


def test_their_state_resumes_in_one_process_and_with_whole_weights(
    alone: Path, tmp_path: Path
) -> None:
    killed, saved = tmp_path / "killed", tmp_path / "saved"
    row = kill_and_resume(2, 1, killed, alone, seed=6, keep=saved, shardings=(FULL, FULL))
    assert row["status"] == "done", row
    require_same(killed, alone)
    assert list(saved.glob("stages/*-mgpo/resume/step-*/.metadata"))
    assert run_curve(2, saved, "optimizer").get("status") != "failed"
    require_same(saved, alone)


def test_they_resume_from_the_state_of_one_process(alone: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "one"
    slowed = os.environ | {"REWARD_SECONDS": "0.3"}
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command_of(1, run_dir), stdout=log, stderr=log, env=slowed)
        deadline = time.monotonic() + 120
        while steps_of(run_dir) < 8 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
        process.wait()
    assert list(run_dir.glob("stages/*-mgpo/resume/step-*/.metadata"))
    assert run_curve(2, run_dir, FULL).get("status") != "failed"
    require_same(run_dir, alone)


def test_gathered_in_bfloat16_they_keep_float32_masters(alone: Path, tmp_path: Path) -> None:
    """A norm's weight of 1 moves by 0.0015 a step: less than half of bfloat16's distance there."""
    settings = [
        "training.dtype=bfloat16", "training.gradient_dtype=bfloat16",
        "training.activations=checkpoint", "training.mlp_tile_tokens=16",
        "stages.0.optimizer={lr: 1.5e-3, schedule: constant, warmup_fraction: 0}",
    ]  # fmt: skip
    given = [part for value in settings for part in ("--set", value)]
    weights = []
    for sharding in (FULL, "optimizer"):
        run_dir = tmp_path / sharding
        command = [*command_of(2, run_dir, sharding), "--until", "sft", *given]
        subprocess.run(command, check=True, timeout=200)
        (model,) = run_dir.glob("stages/*-sft/checkpoints/step-000004")
        weights.append(load_file(model / "model.safetensors"))
    cut, whole = weights
    assert {tensor.dtype for tensor in cut.values()} == {torch.bfloat16}
    norm = cut["model.norm.weight"]
    assert (norm != 1).float().mean() > 0.5
    for name, tensor in cut.items():
        assert torch.allclose(tensor.float(), whole[name].float(), rtol=0.01, atol=2e-3), name
