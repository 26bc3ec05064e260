"""Other weights in a policy that is there: those of a model with its configuration and tokenizer,
for engines that stay open from one model to the next.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from vibelite.errors import CheckpointError
from vibelite.models.adapter import added, below
from vibelite.models.policy import Policy
from vibelite.run_dir import REMAKE_MODEL, read_json
from vibelite.storage import require_unchanged

# What a configuration says of its file, and not of the model.
OF_THE_FILE = ("_name_or_path", "transformers_version")
PREFIXES = ("", "generation_")
# Files, or keys of them, that make a prompt into tokens and say where a completion ends.
TOKENIZER_FILES = ("tokenizer.json", "chat_template.jinja")
SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "chat_template")


def can_take(policy: Policy, current: Path, other: Path) -> bool:
    """Whether `take_weights` makes `policy`, which is the model in directory `current`, the one in
    `other`: they differ in their weights alone, and their files hold the policy's parameters.
    """
    kind = kind_of(other)
    if kind is None or kind_of(current) != kind:
        return False
    held = {name: tuple(tensor.shape) for name, tensor in policy.model.named_parameters()}
    return {name: shape for name, (shape, _) in kind["tensors"].items()} == held


def kind_of(path: Path) -> dict[str, Any] | None:
    """All of a model directory but the values of its weights; None for one that only transformers
    can load, and for adapters on 4-bit weights, which are rounded where they are loaded.
    """
    root, adapters = below(path)
    files = sorted(root.glob("*.safetensors"))
    if not files or any(adapter.four_bit for adapter in adapters):
        return None
    tensors = {}
    for file in files:
        with safe_open(file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118 (safe_open is no mapping)
                part = stored.get_slice(name)
                tensors[name] = (tuple(part.get_shape()), part.get_dtype())
    special = _read(root / "tokenizer_config.json")
    return {
        "tensors": tensors,
        "configurations": [configuration(root / f"{name}config.json") for name in PREFIXES],
        "special tokens": {key: special.get(key) for key in SPECIAL_TOKENS},
        "tokenizer": [f.read_bytes() for f in map(root.joinpath, TOKENIZER_FILES) if f.exists()],
    }


def configuration(path: Path) -> dict[str, Any]:
    """What a configuration file says of the model; {} without one."""
    return {key: value for key, value in _read(path).items() if key not in OF_THE_FILE}


def _read(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


@torch.no_grad()
def take_weights(policy: Policy, path: Path) -> None:
    """Gives the policy, in place, the weights of the model in directory `path`, adapters merged.
    CheckpointError where its bytes have changed since a run made it, or a weight is not finite.
    """
    root, adapters = below(path)
    parameters = dict(policy.model.named_parameters())
    for made in (path, *(adapter.base for adapter in adapters)):
        require_unchanged(made, remedy=REMAKE_MODEL)
    for file in sorted(root.glob("*.safetensors")):
        with safe_open(file, framework="pt", device=str(policy.device)) as stored:
            for name in stored.keys():  # noqa: SIM118
                tensor = stored.get_tensor(name)
                for adapter in adapters:
                    if factors := adapter.factors.get(name.removesuffix(".weight")):
                        tensor = added(tensor, factors, adapter.scale)
                if not tensor.sum(dtype=torch.float32).isfinite():
                    raise CheckpointError(f"{path}: {name} is not finite; {REMAKE_MODEL}")
                parameters[name].copy_(tensor)
