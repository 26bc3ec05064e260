"""Low-rank adapters on a policy: LoRA (arXiv 2106.09685) and QLoRA (arXiv 2305.14314) by peft.

A stage trains a new adapter on the model that it starts from. Where that one is made of adapters
itself, lora merges them into the weights; qlora cannot, for rounding the sum to 4 bits again would
throw away what they learned (each weight already lies where 4 bits can be, and they move it by less
than half the distance to the next): there they stay beside the 4-bit weights, frozen.

Factors are in the type of the weights, updated through the optimizer's float32 masters like any
other weight. How adapters are stored is in adapter_files.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vibelite.errors import RecipeError
from vibelite.models.adapter_files import (
    AdapterFile,
    Factors,
    added,
    concatenated,
    is_adapter,
    write_adapter,
)
from vibelite.models.four_bit import dequantised, linear_maps, round_to_four_bit
from vibelite.models.policy import Policy, TrainedAdapter
from vibelite.recipe.model_section import Adapter

# Names of peft's adapters in a layer: what is trained, and what the stage started from.
TRAINED, START = "trained", "start"
FACTORS = ("lora_A", "lora_B")


def attach(
    policy: Policy,
    settings: Adapter,
    *,
    start: Path,
    frozen: Sequence[AdapterFile] = (),
    seed: int,
) -> Policy:
    """The policy with a new adapter that adds nothing yet; all other parameters are frozen.

    `start`: the directory of the model that it is on. `frozen`: adapters that belong to that model
    and are not in the policy's weights. `seed` draws the factors. Changes the policy's module.
    """
    check_targets(policy, settings)
    dtype = policy.head.weight.dtype
    if frozen:
        whole = concatenated(frozen, [1.0] * len(frozen))
        targets = sorted({name.rpartition(".")[2] for name in whole.factors})
        _inject(policy, START, targets, whole.rank, whole.scale * whole.rank, seed=0)
    _inject(policy, TRAINED, settings.targets, settings.rank, settings.alpha, seed=seed)
    for name, layer in lora_layers(policy):
        with torch.no_grad():
            if frozen and name in whole.factors:
                own = _factors(layer, START)
                own.down.copy_(whole.factors[name].down)
                own.up.copy_(whole.factors[name].up)
        for factor in FACTORS:
            getattr(layer, factor).to(dtype)
    _activate(policy, [START, TRAINED])
    adapter = TrainedAdapter(start, settings.kind == "qlora")
    return replace(policy, adapter=adapter)


def check_targets(policy: Policy, settings: Adapter) -> None:
    """RecipeError for a name in `adapter.targets` that is none of the layers' linear maps."""
    known = list(dict.fromkeys(name.rpartition(".")[2] for name, _ in linear_maps(policy.model)))
    for target in settings.targets:
        if target not in known:
            raise RecipeError(
                f"adapter.targets: {target!r} is no linear map inside the layers of this model, "
                f"which are {', '.join(known)} (the head and the embedding take no adapter)"
            )


def merged_weights(policy: Policy) -> Iterator[tuple[str, torch.Tensor]]:
    """Every parameter of the model that the policy is, merged, by its name in a Hugging Face
    checkpoint without adapters; one is made at a time. A tied head comes once, as the embedding.

    What no adapter changes is the parameter itself, detached; 4-bit weights come in the type that
    they are multiplied in.
    """
    layers = dict(lora_layers(policy)) if policy.adapter is not None else {}
    for name, parameter in policy.model.named_parameters():
        if any(f".{factor}." in name for factor in FACTORS):
            continue
        owner, _, kind = name.rpartition(".")
        layer = layers.get(owner.removesuffix(".base_layer"))
        tensor = dequantised(parameter)
        if layer is not None and kind == "weight":
            tensor = added(tensor, _terms(layer))
        if layer is not None:
            name = f"{owner.removesuffix('.base_layer')}.{kind}"
        yield name, tensor


def merge(model: Any, adapter: AdapterFile) -> None:
    """Adds a stored adapter to the weights of a model without adapters, in place.

    Where the adapter is on 4-bit weights, and not on another adapter, they are rounded so first.
    """
    if adapter.four_bit and not is_adapter(adapter.base):
        round_to_four_bit(model)
    for name, factors in adapter.factors.items():
        weight = model.get_submodule(name).weight
        weight.data = added(weight.data, [(_on(weight.device, factors), adapter.scale)])


@contextmanager
def starting_weights(policy: Policy) -> Iterator[None]:
    """Within it, the policy computes what it did before its adapter was trained. A policy without
    an adapter is left as it is.
    """
    if policy.adapter is None:
        yield
        return
    _activate(policy, [START])
    try:
        yield
    finally:
        _activate(policy, [START, TRAINED])


def save_adapter(policy: Policy, directory: Path) -> None:
    """Writes the policy's adapter alone, with a reference to what it is on."""
    assert policy.adapter is not None, "a policy with an adapter"
    factors, scale = {}, 0.0
    for name, layer in lora_layers(policy):
        if TRAINED in layer.lora_A:
            factors[name] = _on(torch.device("cpu"), _factors(layer, TRAINED))
            scale = layer.scaling[TRAINED]
    adapter = AdapterFile(policy.adapter.start, policy.adapter.four_bit, scale, factors)
    write_adapter(adapter, directory)


def lora_layers(policy: Policy) -> Iterator[tuple[str, Any]]:
    """The linear maps with adapters (peft's LoraLayer), by their names in the model."""
    from peft.tuners.lora import LoraLayer

    for name, module in policy.model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def _inject(
    policy: Policy, name: str, targets: Sequence[str], rank: int, alpha: float, *, seed: int
) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # pyright: ignore - peft's annotation says int
        target_modules=list(targets),
        lora_dropout=0.0,  # training and sampling compute the same function
        bias="none",
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(seed)
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # START's
        inject_adapter_in_model(config, policy.model, name)


def _activate(policy: Policy, names: list[str]) -> None:
    """Makes these adapters count, where they are; the trained one is trainable if among them."""
    for _, layer in lora_layers(policy):
        layer.set_adapter([name for name in names if name in layer.lora_A])
        if START in layer.lora_A:
            layer.set_requires_grad(START, False)


def _factors(layer: Any, name: str) -> Factors:
    """The adapter's factors in a layer, detached."""
    return Factors(layer.lora_A[name].weight.detach(), layer.lora_B[name].weight.detach())


def _terms(layer: Any) -> list[tuple[Factors, float]]:
    return [
        (_factors(layer, name), layer.scaling[name])
        for name in layer.active_adapters
        if name in layer.lora_A
    ]


def _on(device: torch.device, factors: Factors) -> Factors:
    return Factors(factors.down.to(device), factors.up.to(device))
