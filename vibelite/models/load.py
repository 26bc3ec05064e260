"""Opening models: a recipe's base model as a directory, and a directory as a Policy."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from vibelite.errors import RecipeError
from vibelite.models.activations import apply_activations
from vibelite.models.adapter import attach, merge
from vibelite.models.adapter_files import CONFIG_NAME, below, is_adapter, read_adapter
from vibelite.models.four_bit import quantise
from vibelite.models.policy import Policy
from vibelite.models.window import widen
from vibelite.recipe.model_section import Model, PretrainedModel, SmolLM2Model, TinyModel
from vibelite.recipe.schema import Recipe
from vibelite.run_dir import REMAKE_MODEL
from vibelite.storage import require_unchanged


def default_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def write_base_model(
    model: Model, directory: Path, *, recipe_dir: Path, texts: Iterable[str], seed: int, dtype: str
) -> None:
    """Writes the model that a recipe starts with as a Hugging Face directory, weights in `dtype`.

    A path in the recipe is relative to `recipe_dir`. `texts` train the tokenizer of a tiny model;
    `seed` draws its weights.
    """
    match model:
        case TinyModel():
            from vibelite.models.tiny import build_model, build_tokenizer

            tokenizer = build_tokenizer(texts, model.vocab_size)
            built = build_model(model, tokenizer, seed=seed).to(getattr(torch, dtype))
            Policy(built, tokenizer).save(directory)
        case SmolLM2Model():
            from vibelite.models.smollm2 import smollm2_directory

            load_policy(smollm2_directory(), dtype=dtype).save(directory)
        case PretrainedModel():
            local = recipe_dir / model.path
            path = local if local.is_dir() else model.path
            policy = load_policy(path, dtype=dtype, revision=model.revision)
            widen(policy.model.config, model)
            policy.save(directory)


def load_policy(
    path: Path | str,
    *,
    dtype: str | None = None,
    revision: str = "main",
    device: torch.device | None = None,
) -> Policy:
    """The model at `path` (a directory or a hub name), on the GPU where there is one, ready to
    train; of an adapter's directory, the model that it makes, merged.

    `dtype` None keeps the stored one. Raises RecipeError when there is no such model, and
    CheckpointError when a run made it and its bytes have changed since.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    from vibelite.models.attention import ATTENTION

    require_unchanged(Path(path), remedy=REMAKE_MODEL)
    if is_adapter(path):
        adapter = read_adapter(Path(path))
        policy = load_policy(adapter.base, dtype=dtype, device=device)
        merge(policy.model, adapter)
        return policy
    if (Path(path) / CONFIG_NAME).is_file():
        raise RecipeError(
            f"{path} is an adapter of peft, not a model; merge it first (peft's merge_and_unload, "
            "then save_pretrained) and name the directory that results"
        )
    disable_progress_bar()  # a bar per loaded checkpoint would drown the run's own lines
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision)
        model = AutoModelForCausalLM.from_pretrained(
            path, revision=revision, dtype=dtype or "auto", attn_implementation=ATTENTION
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RecipeError(
            f"{path}: no model could be loaded ({reason}); "
            "give a Hugging Face directory, or a hub name and a network"
        ) from error
    torch.nn.Module.to(model, device or default_device())
    model.eval()  # no dropout anywhere: training and sampling compute the same function
    return Policy(model, tokenizer)


def load_for_training(path: Path, recipe: Recipe, *, seed: int) -> Policy:
    """The model in directory `path` as a stage of the recipe trains it: whole, or with a new
    adapter whose factors `seed` draws; its activations as `training` says.
    """
    settings, training = recipe.adapter, recipe.training
    four_bit = settings is not None and settings.kind == "qlora"
    root, adapters = below(path)
    if isinstance(recipe.model, PretrainedModel) and recipe.model.loader == "unsloth":
        from vibelite.models.unsloth_loader import load_with_unsloth

        policy = load_with_unsloth(root, training, four_bit=four_bit, whole=settings is None)
    elif four_bit:
        policy = load_policy(root, dtype=training.dtype, device=torch.device("cpu"))
        quantise(policy.model, default_device())
    else:
        policy = load_policy(root, dtype=training.dtype)
    if not four_bit:  # where they would be lost; there they stay beside the weights
        for adapter in adapters:
            merge(policy.model, adapter)
        adapters = []
    if settings is not None:
        policy = attach(policy, settings, start=path, frozen=adapters, seed=seed)
    apply_activations(policy.model, training)
    return policy


def reference_of(policy: Policy, path: Path, recipe: Recipe) -> Policy:
    """The policy that a stage starts from, for `starting_weights`: the policy itself under an
    adapter, which can be left out; else the model in `path` once more.
    """
    if policy.adapter is not None:
        return policy
    reference = load_policy(path, dtype=recipe.training.dtype)
    apply_activations(reference.model, recipe.training)
    return reference
