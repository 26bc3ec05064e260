"""Models opened by unsloth: its patched modules and kernels under our own training. Nothing else of
it is used, its trainers least of all, and no other file imports it.

unsloth patches transformers and peft while it is imported, so it wants to be imported before them
(after them it warns, and works with fewer of its kernels); and without a GPU it cannot be imported
at all. The command line therefore calls `import_unsloth` as soon as a recipe asks for it, before
anything that imports transformers.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vibelite.errors import RecipeError, install_command
from vibelite.types import TokenBatch

if TYPE_CHECKING:
    from vibelite.models.policy import Policy
    from vibelite.recipe.model_section import Training

# FastModel records it and changes nothing in the model for it.
MAX_TOKENS = 65536
PROBE_LENGTHS = (37, 5, 24)
# How far log-probs may be from those of the same sequence alone, in nats: kernels may round
# differently, a leak from one sequence into the next is far larger.
LARGEST_ERROR = {torch.float32: 1e-2, torch.bfloat16: 0.5, torch.float16: 0.2}


def import_unsloth() -> Any:
    """The module unsloth; RecipeError without it or without a GPU."""
    missing = []
    if importlib.util.find_spec("unsloth") is None:
        missing.append(f"the package ({install_command('unsloth')})")
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
            + install_command("unsloth")
        ) from error
    return unsloth


def load_with_unsloth(path: Path, training: Training, *, four_bit: bool, whole: bool) -> Policy:
    """The model in directory `path` on the GPU, with unsloth's modules, ready for an adapter or, if
    `whole`, to be trained itself. RecipeError where it lets packed sequences see each other.
    """
    unsloth = import_unsloth()
    from transformers import AutoTokenizer

    from vibelite.models.attention import ATTENTION
    from vibelite.models.policy import Policy

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
    policy = Policy(model, AutoTokenizer.from_pretrained(path))
    require_separate_sequences(policy)
    return policy


@torch.no_grad()
def require_separate_sequences(policy: Policy) -> None:
    """RecipeError unless sequences in a pack have the log-probs that they have alone."""
    generator = torch.Generator().manual_seed(0)
    vocab_size = policy.head.weight.shape[0]
    sequences = [torch.randint(vocab_size, (n,), generator=generator) for n in PROBE_LENGTHS]
    together, _ = policy.logprobs(_packed(sequences, policy.device))
    alone = torch.cat([policy.logprobs(_packed([s], policy.device))[0] for s in sequences])
    error = (together - alone).abs().max().item()
    if not error <= LARGEST_ERROR[policy.head.weight.dtype]:
        raise RecipeError(
            "model.loader: unsloth lets sequences in one batch see each other with this model: "
            f"their log-probs change by up to {error:.2g} nats; use loader: transformers"
        )


def _packed(sequences: list[torch.Tensor], device: torch.device) -> TokenBatch:
    """Sequences end to end; every token but their first ones is trained on."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    position_ids = torch.cat([torch.arange(len(sequence)) for sequence in sequences])
    zeros = torch.zeros(len(position_ids), device=device)
    return TokenBatch(
        input_ids=torch.cat(sequences).to(device),
        position_ids=position_ids.to(device),
        cu_seqlens=torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(device, torch.int32),
        completion_mask=(position_ids > 0).to(device),
        token_weights=zeros,
        advantages=zeros,
    )
