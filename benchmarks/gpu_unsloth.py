"""A model that unsloth has opened, trained by this package: peak memory and seconds of an update.

    python -m benchmarks.gpu_unsloth [--out FILE.json] [--tiny]

The same random weights, adapter of rank 32, batch and update as in `gpu_lora.py`, whose rows stand
beside these. The one row says what was measured, or why unsloth cannot be used here. `--tiny`: a
tiny model.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

# Nothing that imports transformers: unsloth wants to be imported before it.
from vibelite.errors import RecipeError
from vibelite.models.unsloth_loader import import_unsloth, load_with_unsloth

TOKENS, TINY_TOKENS = 4096, 64


def measure(*, tiny: bool = False) -> dict[str, Any]:
    """Opens a random model, attaches an adapter and trains it a few steps."""
    row: dict[str, Any] = {"kind": "lora", "loader": "unsloth", "stage": "mgpo"}
    try:
        import_unsloth()
    except RecipeError as error:
        return row | {"left_out": str(error)}
    from benchmarks.gpu_step_vs_trl import make_model
    from benchmarks.row_report import failure_row

    try:
        with tempfile.TemporaryDirectory() as directory:
            make_model(Path(directory), tiny=tiny)
            return row | train(Path(directory), TINY_TOKENS if tiny else TOKENS)
    except Exception as error:  # the row says so, and the exit code
        return row | failure_row(error)


def train(path: Path, tokens: int) -> dict[str, Any]:
    """Bytes and seconds of an update of a new adapter on the model in `path`."""
    from benchmarks.gpu_lora import TRAINING, measure_one, trainer_of
    from vibelite.models.activations import apply_activations
    from vibelite.models.load import attach
    from vibelite.recipe.model_section import Adapter

    policy = load_with_unsloth(path, TRAINING, four_bit=False, whole=False)
    policy = attach(policy, Adapter.model_validate({"kind": "lora"}), start=path, seed=0)
    apply_activations(policy.model, TRAINING)
    trained = list(policy.trainable_parameters())
    before = [parameter.detach().clone() for parameter in trained]
    config = policy.model.config.to_dict()
    row = measure_one(trainer_of(policy, TRAINING), "mgpo", config, tokens)
    changed = sum(not torch.equal(a, b) for a, b in zip(before, trained, strict=True))
    assert changed, "an update changes the adapter"
    return {"tokens": tokens, "num_changed_tensors": changed} | row


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tiny", action="store_true", help="a tiny model")
    arguments = parser.parse_args()
    row = measure(tiny=arguments.tiny)
    from benchmarks.gpu_lora import table
    from benchmarks.row_report import exit_code, row_saver

    row_saver(arguments.out)([row])
    print(table([row]))
    print(row.get("left_out", row.get("failed", "loaded and trained")))
    sys.exit(exit_code([row]))


if __name__ == "__main__":
    main()
