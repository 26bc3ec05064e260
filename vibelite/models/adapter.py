"""Low-rank adapters (LoRA, arXiv 2106.09685): in a policy, where peft's layers hold them, and on
disk, as two factors per linear map and the model that they are added to.

    adapter_model.safetensors  adapter_config.json   peft's own format
    base.json                                        {"path": the model below, "four_bit": bool}

The model below may be an adapter's directory itself; at the bottom is an ordinary one. Paths are
relative to the adapter's directory, so a run's directory may be moved. How a policy gets an adapter
is in load.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from vibelite.errors import CheckpointError
from vibelite.run_dir import read_json, write_json_atomic

if TYPE_CHECKING:
    from vibelite.models.policy import Policy

WEIGHTS_NAME = "adapter_model.safetensors"
CONFIG_NAME = "adapter_config.json"
BASE_NAME = "base.json"
PREFIX = "base_model.model."
# Names of peft's adapters in a layer: what is trained, and what the stage started from.
TRAINED, START = "trained", "start"
FACTORS = ("lora_A", "lora_B")


class Factors(NamedTuple):
    """One linear map's part: `down` [r, inputs] (LoRA's A) and `up` [outputs, r] (its B)."""

    down: torch.Tensor
    up: torch.Tensor


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """`scale` up @ down is added to the weight of each linear map in `factors`, given by name, of
    the model in `base`. `four_bit`: that model's weights are rounded to 4 bits first.
    """

    base: Path
    four_bit: bool
    scale: float
    factors: dict[str, Factors]

    @property
    def rank(self) -> int:
        return next(iter(self.factors.values())).down.shape[0]


def merged_weights(policy: Policy) -> Iterator[tuple[str, torch.Tensor]]:
    """Every parameter of the merged model by its name in a checkpoint, made one at a time, 4-bit
    weights in the type that they are multiplied in; a tied head comes once, as the embedding.
    """
    layers = dict(lora_layers(policy)) if policy.adapter is not None else {}
    for name, parameter in policy.model.named_parameters():
        if any(f".{factor}." in name for factor in FACTORS):
            continue
        owner, _, kind = name.rpartition(".")
        owner = owner.removesuffix(".base_layer")
        tensor = dequantised(parameter)
        if owner in layers and kind == "weight":
            layer, total = (
                layers[owner],
                tensor.to(torch.promote_types(tensor.dtype, torch.float32)),
            )
            for part in layer.active_adapters:
                if part in layer.lora_A:
                    total = added(total, factors_of(layer, part), layer.scaling[part])
            tensor = total.to(tensor.dtype)  # rounded once
        yield f"{owner}.{kind}" if owner in layers else name, tensor


def dequantised(parameter: torch.Tensor) -> torch.Tensor:
    """A parameter as an ordinary tensor, in the type that it had before 4 bits."""
    state = getattr(parameter, "quant_state", None)
    if state is None:
        return parameter.detach()
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(parameter.data, state)


def added(weight: torch.Tensor, factors: Factors, scale: float) -> torch.Tensor:
    """weight [outputs, inputs] + scale up @ down, in at least float32 and rounded once."""
    total = weight.to(torch.promote_types(weight.dtype, torch.float32))
    down, up = (factor.to(total) for factor in factors)
    return torch.addmm(total, up, down, alpha=scale).to(weight.dtype)


@contextmanager
def starting_weights(policy: Policy) -> Iterator[None]:
    """Within it, the policy computes what it did before its adapter was trained."""
    activate(policy, [START])
    try:
        yield
    finally:
        activate(policy, [START, TRAINED])


def activate(policy: Policy, names: list[str]) -> None:
    """Makes these adapters count, where they are; the trained one is trainable if among them."""
    for _, layer in lora_layers(policy):
        layer.set_adapter([name for name in names if name in layer.lora_A])
        if START in layer.lora_A:
            layer.set_requires_grad(START, False)


def lora_layers(policy: Policy) -> Iterator[tuple[str, Any]]:
    """The linear maps with adapters (peft's LoraLayer), by their names in the model."""
    from peft.tuners.lora import LoraLayer

    for name, module in policy.model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def save_adapter(policy: Policy, directory: Path) -> None:
    """Writes the policy's adapter alone, with a reference to what it is on."""
    assert policy.adapter is not None, "a policy with an adapter"
    factors, scale = {}, 0.0
    for name, layer in lora_layers(policy):
        if TRAINED in layer.lora_A:
            factors[name] = Factors(*(part.cpu() for part in factors_of(layer, TRAINED)))
            scale = layer.scaling[TRAINED]
    adapter = AdapterFile(policy.adapter.start, policy.adapter.four_bit, scale, factors)
    write_adapter(adapter, directory)


def is_adapter(path: Path | str) -> bool:
    return (Path(path) / BASE_NAME).is_file()


def below(path: Path) -> tuple[Path, list[AdapterFile]]:
    """The ordinary model at the bottom of `path`, and the adapters above it, lowest first."""
    adapters: list[AdapterFile] = []
    while is_adapter(path):
        adapters.insert(0, read_adapter(path))
        path = adapters[0].base
    return path, adapters


def read_adapter(directory: Path) -> AdapterFile:
    """Raises CheckpointError for a damaged directory, or one whose base has gone."""
    base, config = read_json(directory / BASE_NAME), read_json(directory / CONFIG_NAME)
    try:
        tensors = load_file(directory / WEIGHTS_NAME)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{directory / WEIGHTS_NAME}: cannot be read ({error})") from error
    path = Path(os.path.normpath(directory.resolve() / base["path"]))
    if not path.is_dir():
        raise CheckpointError(f"{directory} is an adapter of {path}, which is not there any more")
    factors = {
        key.removeprefix(PREFIX).removesuffix(".lora_A.weight"): Factors(
            down, tensors[key.replace(".lora_A.", ".lora_B.")]
        )
        for key, down in tensors.items()
        if ".lora_A." in key
    }
    return AdapterFile(path, base["four_bit"], config["lora_alpha"] / config["r"], factors)


def write_adapter(adapter: AdapterFile, directory: Path) -> None:
    """Writes the adapter's three files to an existing directory."""
    base = os.path.relpath(adapter.base, directory.resolve())
    tensors = {}
    for name, (down, up) in adapter.factors.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = down.contiguous()
        tensors[f"{PREFIX}{name}.lora_B.weight"] = up.contiguous()
    save_file(tensors, directory / WEIGHTS_NAME, metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": adapter.rank,
        "lora_alpha": adapter.scale * adapter.rank,
        "target_modules": sorted({name.rpartition(".")[2] for name in adapter.factors}),
        "bias": "none",
        "inference_mode": True,
    }
    (directory / CONFIG_NAME).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    write_json_atomic(directory / BASE_NAME, {"path": base, "four_bit": adapter.four_bit})


def mean_adapter(directories: Sequence[Path], weights: Sequence[float]) -> AdapterFile:
    """The adapter whose merged weights are the weighted mean of those of several on one model:
    sum_i w_i (W + s B_i A_i) = W + sum_i w_i s B_i A_i, for weights normalised to sum 1.
    """
    total = sum(weights)
    shares: dict[Path, float] = {}
    for directory, weight in zip(directories, weights, strict=True):
        shares[directory] = shares.get(directory, 0.0) + weight / total
    used = {directory: share for directory, share in shares.items() if share > 0}
    adapters = [read_adapter(directory) for directory in used]
    for directory, adapter in zip(used, adapters, strict=True):
        if (adapter.base, adapter.four_bit) != (adapters[0].base, adapters[0].four_bit):
            raise CheckpointError(
                f"{directory} is an adapter of {adapter.base}, the first one of "
                f"{adapters[0].base}; export each to an ordinary directory, then fuse those"
            )
    return concatenated(adapters, list(used.values()))


def concatenated(adapters: Sequence[AdapterFile], weights: Sequence[float]) -> AdapterFile:
    """The adapter on the first one's base that adds sum_i weights[i] times what adapter i adds,
    exactly: [w_1 s_1 B_1, w_2 s_2 B_2, ...] @ [A_1; A_2; ...], of scale 1, in float32.
    """
    first = adapters[0]
    if any(adapter.factors.keys() != first.factors.keys() for adapter in adapters):
        raise CheckpointError("the adapters are on different linear maps; they cannot be one")
    factors = {}
    for name in first.factors:
        parts = [adapter.factors[name] for adapter in adapters]
        scales = [w * adapter.scale for w, adapter in zip(weights, adapters, strict=True)]
        ups = [part.up.float() * scale for part, scale in zip(parts, scales, strict=True)]
        factors[name] = Factors(torch.cat([part.down.float() for part in parts]), torch.cat(ups, 1))
    return AdapterFile(first.base, first.four_bit, 1.0, factors)


def factors_of(layer: Any, name: str) -> Factors:
    """The adapter's factors in a layer, detached."""
    return Factors(layer.lora_A[name].weight.detach(), layer.lora_B[name].weight.detach())
