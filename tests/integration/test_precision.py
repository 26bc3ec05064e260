"""The pipeline with 16-bit weights and offloaded activations, on a few thousand parameters: stages
train and models keep their type. (Interrupted ones: tests/training/test_checkpoint.py.)
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.integration.test_pipeline import run
from vibelite.models import activations
from vibelite.run_dir import read_jsonl

pytestmark = pytest.mark.usefixtures("one_thread")

NUM_SFT_STEPS, NUM_MGPO_STEPS = 3, 3
PRECISIONS = {
    "bfloat16": ["training.dtype=bfloat16", "stages.mgpo.optimizer.kind=adamw_cpu"],
    "float16": ["training.dtype=float16", "training.gradient_dtype=bfloat16"],
}
SHORT = [
    f"stages.sft.num_steps={NUM_SFT_STEPS}",
    "stages.sft.optimizer.kind=adamw_cpu",
    "stages.sft.checkpoint_every=1",
    f"stages.mgpo.num_steps={NUM_MGPO_STEPS}",
    "stages.mgpo.checkpoint_every=1",
]


def weights(directory: Path, stage: str) -> dict[str, torch.Tensor]:
    """The last model that a stage left."""
    (checkpoints,) = directory.glob(f"stages/*-{stage}/checkpoints")
    return load_file(max(checkpoints.glob("step-*")) / "model.safetensors")


def metrics(directory: Path, stage: str) -> list[dict[str, float]]:
    (path,) = directory.glob(f"stages/*-{stage}/steps.jsonl")
    return [row["metrics"] for row in read_jsonl(path)]


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_both_stages_train_and_keep_the_type(tmp_path, dtype):
    run(tmp_path, *PRECISIONS[dtype], *SHORT, until="mgpo")
    base = load_file(tmp_path / "base" / "model.safetensors")
    sft, mgpo = weights(tmp_path, "sft"), weights(tmp_path, "mgpo")
    for name, start in base.items():
        assert start.dtype == sft[name].dtype == mgpo[name].dtype == getattr(torch, dtype)
    for before, after in ((base, sft), (sft, mgpo)):
        assert any(not torch.equal(before[name], after[name]) for name in before)
    losses = [row["sft/loss"] for row in metrics(tmp_path, "sft")]
    assert len(losses) == NUM_SFT_STEPS
    assert losses[-1] < losses[0]
    updates = metrics(tmp_path, "mgpo")
    assert len(updates) == NUM_MGPO_STEPS
    assert all(math.isfinite(value) for row in updates for value in row.values())
    # The engine samples from the same weights that are trained, in the same type.
    assert all(row["mismatch/max_abs"] < 0.5 for row in updates)
    if dtype == "float16":
        assert updates[-1]["optimizer/skipped_steps"] == 0
        assert updates[-1]["optimizer/loss_scale"] == 2**16


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_losses_are_those_of_float32_but_for_rounding(tmp_path, dtype):
    run(tmp_path / "low", *PRECISIONS[dtype], *SHORT, until="sft")
    run(tmp_path / "full", *SHORT, until="sft")
    low, full = metrics(tmp_path / "low", "sft"), metrics(tmp_path / "full", "sft")
    for mine, exact in zip(low, full, strict=True):
        assert mine["sft/loss"] == pytest.approx(exact["sft/loss"], rel=1e-2)
        assert mine["optimizer/grad_norm"] == pytest.approx(exact["optimizer/grad_norm"], rel=5e-2)


def test_offloaded_stages_end_in_the_same_bits(tmp_path, monkeypatch):
    run(tmp_path / "kept", *SHORT, until="mgpo")
    checkpoint, layers = activations.checkpoint, []

    def count(*args, **kwargs):
        layers.append(1)
        return checkpoint(*args, **kwargs)

    monkeypatch.setattr(activations, "checkpoint", count)
    run(tmp_path / "moved", *SHORT, "training.activations=checkpoint_offload", until="sft")
    num_sft = len(layers)
    run(tmp_path / "moved", *SHORT, "training.activations=checkpoint_offload", until="mgpo")
    assert 0 < num_sft < len(layers)
    for stage in ("sft", "mgpo"):
        kept, moved = weights(tmp_path / "kept", stage), weights(tmp_path / "moved", stage)
        assert kept.keys() == moved.keys()
        assert all(torch.equal(kept[name], moved[name]) for name in kept)
