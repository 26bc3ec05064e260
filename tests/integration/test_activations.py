"""The recipe's `training.activations` reaches both stages and changes no bit of what they learn."""

from __future__ import annotations

import pytest
import torch

from tests.integration.test_pipeline import run
from tests.integration.test_precision import SHORT, weights
from vibelite.models import activations

pytestmark = pytest.mark.usefixtures("one_thread")


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
