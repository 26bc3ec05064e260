"""A model with its linear maps in 4 or 8 bits, as a directory that transformers loads where
bitsandbytes is installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from vibelite.errors import RecipeError
from vibelite.models.load import QUANT_TYPE

Bits = Literal[4, 8]


def write_quantised(source: Path, target: Path, *, bits: Bits) -> None:
    """Writes the model in directory `source` to the directory `target`: 4 = NF4 (arXiv 2305.14314),
    8 = LLM.int8() (arXiv 2208.07339). The head and the embeddings stay as they are.

    RecipeError where bitsandbytes is missing or cannot do it on this machine.
    """
    try:
        import bitsandbytes
    except ImportError as error:
        raise RecipeError(
            f"--format bnb-{bits}bit needs bitsandbytes ({error}); pip install 'vibelite[gpu]'"
        ) from error
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    dtype = stored_dtype(source)
    if bits == 4:
        # The arithmetic around the 4-bit weights is in the type that the model was trained in.
        settings = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type=QUANT_TYPE, bnb_4bit_compute_dtype=dtype
        )
    else:
        settings = BitsAndBytesConfig(load_in_8bit=True)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            source, quantization_config=settings, dtype=dtype
        )
    except (RuntimeError, NotImplementedError, ValueError) as error:
        raise RecipeError(
            f"bitsandbytes {bitsandbytes.__version__} cannot quantise on this machine ({error})"
        ) from error
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)


def stored_dtype(source: Path) -> torch.dtype:
    """The type of the weights in a model directory."""
    from transformers import AutoConfig

    return getattr(AutoConfig.from_pretrained(source), "dtype", None) or torch.float32
