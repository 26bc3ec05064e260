"""Models opened by unsloth: its patched modules and kernels under our own training.

unsloth patches transformers and peft while it is imported, so it wants to come before them, and
cannot be imported without a GPU. The command line therefore calls `import_unsloth` as soon as a
recipe asks for it.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vibelite.errors import RecipeError
from vibelite.hints import install

if TYPE_CHECKING:
    from vibelite.models.policy import Policy
    from vibelite.recipe.model_section import Training

# FastModel records it and changes nothing in the model for it.
MAX_TOKENS = 65536


def import_unsloth() -> Any:
    """The module unsloth; RecipeError without it or without a GPU."""
    missing = []
    if importlib.util.find_spec("unsloth") is None:
        missing.append(f"the package ({install('vibelite[unsloth]')})")
    if not torch.cuda.is_available():
        missing.append("an NVIDIA GPU with a torch built for it")
    if missing:
        raise RecipeError(
            f"model.loader: unsloth needs {' and '.join(missing)}; use loader: transformers, which "
            "needs neither"
        )
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")  # it would report what is loaded
    try:
        import unsloth  # pyright: ignore[reportMissingImports]
    except (ImportError, NotImplementedError, RuntimeError) as error:
        raise RecipeError(
            f"model.loader: unsloth cannot be imported ({error}); use loader: transformers, or run "
            + install("vibelite[unsloth]")
        ) from error
    return unsloth


def load_with_unsloth(path: Path, training: Training, *, four_bit: bool, whole: bool) -> Policy:
    """The model in directory `path` on the GPU, with unsloth's modules, ready for an adapter or, if
    `whole`, to be trained itself. RecipeError where it computes another model.
    """
    unsloth = import_unsloth()
    from vibelite.models.agreement import agreeing
    from vibelite.models.attention import ATTENTION
    from vibelite.models.policy import Policy
    from vibelite.models.tokenizer import load_tokenizer

    # FastModel keeps the model's own attention call, which takes ours; FastLanguageModel replaces
    # it by one that knows nothing of packed sequences.
    model, _ = unsloth.FastModel.from_pretrained(
        model_name=str(path),
        max_seq_length=MAX_TOKENS,
        dtype=getattr(torch, training.dtype),
        load_in_4bit=four_bit,
        load_in_16bit=not four_bit and not whole,
        full_finetuning=whole,
        use_gradient_checkpointing=False,  # activations.py does that, or it would be done twice
        use_exact_model_name=True,  # not another checkpoint of the hub in its place
        offload_embedding=False,  # it may be the head, which every step reads whole
        attn_implementation="sdpa",
    )
    model.set_attn_implementation(ATTENTION)
    model.eval()  # no dropout anywhere: training and sampling compute the same function
    return agreeing(Policy(model, load_tokenizer(path)))
