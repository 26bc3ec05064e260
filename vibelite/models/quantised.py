"""A model with its linear maps in 4 or 8 bits, as a directory that transformers loads where
bitsandbytes is installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from vibelite.models.load import QUANT_TYPE, default_device, require_bitsandbytes


def write_quantised(source: Path, target: Path, *, bits: Literal[4, 8]) -> None:
    """Writes the model in directory `source` to the directory `target`: 4 = NF4 (arXiv 2305.14314),
    8 = LLM.int8() (arXiv 2208.07339). The head and the embeddings stay as they are.
    """
    require_bitsandbytes(default_device(), asked_by=f"--format bnb-{bits}bit")
    from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

    from vibelite.models.tokenizer import load_tokenizer

    # The arithmetic around 4-bit weights is in the type that the model was trained in.
    dtype = AutoConfig.from_pretrained(source).dtype or torch.float32
    settings = BitsAndBytesConfig(load_in_8bit=True)
    if bits == 4:
        settings = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type=QUANT_TYPE, bnb_4bit_compute_dtype=dtype
        )
    model = AutoModelForCausalLM.from_pretrained(source, quantization_config=settings, dtype=dtype)
    model.save_pretrained(target)
    load_tokenizer(source).save_pretrained(target)
