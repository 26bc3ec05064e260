"""Resumable training state: weights and optimizer at a step. Randomness and data order are
functions of the step.

A checkpoint is a directory that appears under its final name only when it is complete; a process
killed at any moment leaves the one before.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from vibelite.errors import CheckpointError
from vibelite.models.policy import Policy
from vibelite.run_dir import replace_directory
from vibelite.training.optim import PolicyOptimizer

WEIGHTS_NAME = "weights.safetensors"
OPTIMIZER_NAME = "optimizer.pt"


def save_model(policy: Policy, directory: Path) -> None:
    """Writes the policy as a Hugging Face directory, whole or not at all."""
    temporary = _fresh(directory)
    policy.save(temporary)
    replace_directory(temporary, directory)


def save_training_state(root: Path, step: int, policy: Policy, optimizer: PolicyOptimizer) -> None:
    """Saves the state after `step` finished steps under `root`, then removes the older ones."""
    target = root / f"step-{step:06d}"
    temporary = _fresh(target)
    optimizer.finish()
    # Trainable parameters once each: a tied head is its embedding.
    weights = {name: parameter.detach() for name, parameter in policy.model.named_parameters()}
    save_file(weights, temporary / WEIGHTS_NAME)
    torch.save(optimizer.state_dict(), temporary / OPTIMIZER_NAME)
    replace_directory(temporary, target)
    for older in saved_steps(root):
        if older < step:
            shutil.rmtree(root / f"step-{older:06d}")


def load_training_state(root: Path, policy: Policy, optimizer: PolicyOptimizer) -> int:
    """Loads the newest state under `root` in place; the number of finished steps, 0 if there is
    none.
    """
    steps = saved_steps(root)
    if not steps:
        return 0
    directory = root / f"step-{steps[-1]:06d}"
    try:
        weights = load_file(directory / WEIGHTS_NAME)
        # On the host: the optimizer knows which of its state belongs on the device.
        saved = torch.load(directory / OPTIMIZER_NAME, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, UnpicklingError, SafetensorError) as error:
        raise CheckpointError(
            f"{directory}: damaged ({error}); remove it to resume from an older one"
        ) from error
    parameters = dict(policy.model.named_parameters())
    if parameters.keys() != weights.keys():
        raise CheckpointError(
            f"{directory}: belongs to another model; remove it or use another run directory"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    optimizer.load_state_dict(saved)
    return steps[-1]


def saved_steps(root: Path) -> list[int]:
    """Steps of the complete checkpoints under `root`, ascending."""
    return sorted(
        int(path.name.removeprefix("step-")) for path in root.glob("step-[0-9]*") if path.is_dir()
    )


def _fresh(target: Path) -> Path:
    """An empty directory beside `target`; what a killed process left there is dropped."""
    temporary = target.with_name(f".{target.name}.tmp")
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)
    return temporary
