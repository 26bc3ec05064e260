"""Frozen weights in 4 bits: NF4 with double quantisation (arXiv 2305.14314), by bitsandbytes.

Every linear map inside the decoder layers is held so; embeddings, head and norms stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel

from vibelite.errors import RecipeError

QUANT_TYPE = "nf4"


def require_bitsandbytes(device: torch.device) -> Any:
    """The module bitsandbytes; RecipeError where it is missing or cannot quantise on `device`."""
    try:
        import bitsandbytes
    except ImportError as error:
        raise RecipeError(
            f"adapter.kind qlora needs bitsandbytes ({error}); pip install 'vibelite[gpu]', or use "
            "adapter.kind: lora"
        ) from error
    try:
        _round_trip(torch.ones(64, 64, device=device), bitsandbytes)
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        raise RecipeError(
            f"adapter.kind qlora: bitsandbytes {bitsandbytes.__version__} cannot quantise on "
            f"{device} ({error}); install a build for this machine, or use adapter.kind: lora"
        ) from error
    return bitsandbytes


def quantise(model: PreTrainedModel, device: torch.device) -> None:
    """Puts `model` on `device`, the decoder's linear maps one by one in 4 bits.

    They multiply in the type that their weights had. The device never holds more than one of them
    in that type.
    """
    bitsandbytes = require_bitsandbytes(device)
    decoder = model.get_decoder()
    for name, linear in list(linear_maps(model)):
        parent, _, child = name.rpartition(".")
        setattr(decoder.get_submodule(parent), child, _quantised(linear, bitsandbytes, device))
    torch.nn.Module.to(model, device)
    model.is_loaded_in_4bit = True  # pyright: ignore - what peft asks for


def round_to_four_bit(model: PreTrainedModel) -> None:
    """Gives the decoder's linear maps the values that 4 bits can hold, in the type they have."""
    bitsandbytes = require_bitsandbytes(model.device)
    for _, linear in linear_maps(model):
        linear.weight.data = _round_trip(linear.weight.data, bitsandbytes)


def linear_maps(model: PreTrainedModel) -> Iterator[tuple[str, torch.nn.Linear]]:
    """The linear maps inside the decoder, by their names there."""
    for name, module in model.get_decoder().named_modules():
        if isinstance(module, torch.nn.Linear):
            yield name, module


def dequantised(parameter: torch.Tensor) -> torch.Tensor:
    """The values of a parameter as an ordinary tensor: of one in 4 bits in the type that it had
    before, of any other itself.
    """
    state = getattr(parameter, "quant_state", None)
    if state is None:
        return parameter.detach()
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(parameter.data, state)


def _quantised(linear: torch.nn.Linear, bitsandbytes: Any, device: torch.device) -> torch.nn.Module:
    quantised = bitsandbytes.nn.Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        compute_dtype=linear.weight.dtype,
        compress_statistics=True,
        quant_type=QUANT_TYPE,
        device="meta",
    )
    quantised.weight = bitsandbytes.nn.Params4bit(
        linear.weight.data,
        requires_grad=False,
        compress_statistics=True,
        quant_type=QUANT_TYPE,
        module=quantised,
    )
    quantised.bias = linear.bias
    # On a CPU with the instructions for it bitsandbytes would pack the weights anew while sampling,
    # multiply in bfloat16, and leave them so for training: another function than was trained.
    quantised.support_avx512bf16_for_cpu = False
    return quantised.to(device)


def _round_trip(weight: torch.Tensor, bitsandbytes: Any) -> torch.Tensor:
    packed, state = bitsandbytes.functional.quantize_4bit(
        weight, compress_statistics=True, quant_type=QUANT_TYPE
    )
    return bitsandbytes.functional.dequantize_4bit(packed, state)
