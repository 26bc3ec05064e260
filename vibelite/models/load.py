"""Opening models: a recipe's base model as a directory, and a directory as a Policy.

A stage's policy is made in this order: the base model, the adapters merged into it, 4-bit weights,
and a new adapter on top. QLoRA (arXiv 2305.14314) cannot merge: rounding the sum to 4 bits again
would throw away what the adapters learned, so they stay next to the 4-bit weights, frozen.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from vibelite.errors import RecipeError
from vibelite.hints import install
from vibelite.models.activations import apply_activations
from vibelite.models.adapter import (
    CONFIG_NAME,
    FACTORS,
    START,
    TRAINED,
    AdapterFile,
    activate,
    added,
    below,
    concatenated,
    factors_of,
    is_adapter,
    lora_layers,
    read_adapter,
    starting_weights,
)
from vibelite.models.agreement import agreeing
from vibelite.models.attention import ATTENTION
from vibelite.models.policy import Policy, TrainedAdapter
from vibelite.models.tokenizer import load_tokenizer
from vibelite.recipe.model_section import Adapter, Model, PretrainedModel, SmolLM2Model, TinyModel
from vibelite.recipe.schema import Recipe
from vibelite.run_dir import REMAKE_MODEL
from vibelite.storage import require_unchanged
from vibelite.types import TokenBatch

POSITIONS = "max_position_embeddings"
QUANT_TYPE = "nf4"


def load_for_training(path: Path, recipe: Recipe, *, seed: int) -> Policy:
    """The model in directory `path` as a stage of the recipe trains it: whole, or with a new
    adapter whose factors `seed` draws; its activations as `training` says.
    """
    settings, training = recipe.adapter, recipe.training
    four_bit = settings is not None and settings.kind == "qlora"
    by_unsloth = isinstance(recipe.model, PretrainedModel) and recipe.model.loader == "unsloth"
    root, adapters = below(path)
    if by_unsloth:
        from vibelite.models.unsloth_loader import load_with_unsloth

        policy = load_with_unsloth(root, training, four_bit=four_bit, whole=settings is None)
    else:
        device = torch.device("cpu") if four_bit else default_device()
        policy = load_policy(root, dtype=training.dtype, device=device)
    if not four_bit:
        for adapter in adapters:
            merge(policy.model, adapter)
        adapters = []
    elif not by_unsloth:
        quantise(policy.model, default_device())
    if settings is not None:
        policy = attach(policy, settings, start=path, frozen=adapters, seed=seed)
    apply_activations(policy.model, training)
    if not policy.is_packed:
        print(
            f"{type(policy.model).__name__}: its layers would let one packed sequence see another, "
            "so it is trained one sequence at a time",
            file=sys.stderr,
        )
    return policy


class StartingPolicy(Policy):
    """A policy as it was before its adapter was trained; it shares the module."""

    def logprobs(self, batch: TokenBatch, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        with starting_weights(self):
            return Policy.logprobs(self, batch, **options)


def reference_of(policy: Policy, path: Path, recipe: Recipe) -> Policy:
    """The policy that a stage starts from: without its adapter, or from `path` once more."""
    if policy.adapter is not None:
        return StartingPolicy(policy.model, policy.tokenizer, policy.adapter, policy.packs)
    reference = load_policy(path, dtype=recipe.training.dtype)
    apply_activations(reference.model, recipe.training)
    return reference


def load_policy(
    path: Path | str,
    *,
    dtype: str | None = None,
    revision: str = "main",
    device: torch.device | None = None,
) -> Policy:
    """The model at `path` (a directory or a hub name) in `dtype` or the stored one, ready to train;
    of an adapter's directory, the model that it makes, merged.

    RecipeError when there is no such model, or one that is broken or would not be trained as it
    is; CheckpointError when a run made it and its bytes have changed since.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

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
        tokenizer = load_tokenizer(path, revision)
        model, report = AutoModelForCausalLM.from_pretrained(  # pyright: ignore - of two values
            path,
            revision=revision,
            dtype=dtype or "auto",
            attn_implementation=ATTENTION,
            ignore_mismatched_sizes=True,  # they are refused below
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        if isinstance(error, KeyError):
            reason = "its attention cannot be replaced by one for packed sequences"
        raise RecipeError(
            f"{path}: no model could be loaded ({reason}); "
            "give a Hugging Face directory, or a hub name and a network"
        ) from error
    require_whole(path, model, tokenizer, report)
    torch.nn.Module.to(model, device or default_device())
    model.eval()  # no dropout anywhere: training and sampling compute the same function
    return agreeing(Policy(model, tokenizer))


def require_whole(path: Path | str, model: Any, tokenizer: Any, report: Mapping[str, Any]) -> None:
    """RecipeError for tensors that transformers' `report` calls missing or misshapen, weights that
    are not finite, or fewer embeddings than tokens.
    """
    broken = {"missing in its files": sorted(report["missing_keys"])}
    broken["of another shape there"] = sorted(str(key[0]) for key in report["mismatched_keys"])
    broken["not finite"] = [
        name
        for name, parameter in model.named_parameters()
        if not parameter.detach().sum(dtype=torch.float32).isfinite()
    ]
    for what, names in broken.items():
        if names:
            others = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise RecipeError(
                f"{path}: {len(names)} tensors are {what}: {', '.join(names[:3])}{others}; what "
                "would be trained is not this model: get its files again, or repair them"
            )
    rows = model.get_input_embeddings().weight.shape[0]
    largest = max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise RecipeError(
            f"{path}: the tokenizer has ids up to {largest}, the embedding {rows} rows; call "
            "model.resize_token_embeddings(len(tokenizer)) and save both, or remove added tokens"
        )


def default_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def write_base_model(
    model: Model, directory: Path, *, recipe_dir: Path, texts: Iterable[str], seed: int, dtype: str
) -> None:
    """Writes the model that a recipe in `recipe_dir` starts with as a Hugging Face directory in
    `dtype`. `texts` train the tokenizer of a tiny model; `seed` draws its weights.
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


def parameters_in(directory: Path) -> int:
    """Parameters of a model's files."""
    total = 0
    for path in directory.glob("*.safetensors"):
        with safe_open(path, framework="numpy") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total


def widen(config: Any, model: PretrainedModel) -> None:
    """Writes the recipe's positions and rotary base into a configuration: they count when the model
    is next loaded. RecipeError for a model without a rotary base.
    """
    if model.max_position:
        setattr(config, POSITIONS, model.max_position)
    if model.rope_theta:
        rotary = getattr(config, "rope_parameters", None)
        if not isinstance(rotary, dict) or "rope_theta" not in rotary:
            raise RecipeError(f"model.rope_theta: {model.path} has no rotary base; leave it out")
        rotary["rope_theta"] = model.rope_theta


def merge(model: Any, adapter: AdapterFile) -> None:
    """Adds a stored adapter to the weights of a model without adapters, in place."""
    if adapter.four_bit and not is_adapter(adapter.base):  # it was trained on weights rounded so
        bitsandbytes = require_bitsandbytes(model.device)
        for _, linear in linear_maps(model):
            linear.weight.data = _round_trip(linear.weight.data, bitsandbytes)
    for name, factors in adapter.factors.items():
        weight = model.get_submodule(name).weight
        weight.data = added(weight.data, factors, adapter.scale)


def quantise(model: PreTrainedModel, device: torch.device) -> None:
    """Puts `model` on `device`, the decoder's linear maps one by one in 4 bits."""
    bitsandbytes = require_bitsandbytes(device)
    decoder = model.get_decoder()
    for name, linear in list(linear_maps(model)):
        parent, _, child = name.rpartition(".")
        setattr(decoder.get_submodule(parent), child, _quantised(linear, bitsandbytes, device))
    torch.nn.Module.to(model, device)
    model.is_loaded_in_4bit = True  # pyright: ignore - what peft asks for


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


def require_bitsandbytes(device: torch.device, asked_by: str = "adapter.kind: qlora") -> Any:
    """The module bitsandbytes; RecipeError where it is missing or cannot quantise on `device`."""
    try:
        import bitsandbytes

        _round_trip(torch.ones(64, 64, device=device), bitsandbytes)
    except (ImportError, RuntimeError, NotImplementedError, AttributeError) as error:
        raise RecipeError(
            f"{asked_by} needs a bitsandbytes that can quantise on {device} ({error}); "
            "do without 4 and 8 bits (adapter.kind: lora), or run " + install("vibelite[gpu]")
        ) from error
    return bitsandbytes


def linear_maps(model: PreTrainedModel) -> Iterator[tuple[str, torch.nn.Linear]]:
    """The linear maps inside the decoder, by their names there."""
    for name, module in model.get_decoder().named_modules():
        if isinstance(module, torch.nn.Linear):
            yield name, module


def attach(
    policy: Policy,
    settings: Adapter,
    *,
    start: Path,
    frozen: Sequence[AdapterFile] = (),
    seed: int,
) -> Policy:
    """The policy with a new adapter that adds nothing yet on the model in `start`; all else is
    frozen, as are the adapters of that model that are not in its weights. `seed` draws the factors.
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
                for own, stored in zip(factors_of(layer, START), whole.factors[name], strict=True):
                    own.copy_(stored)
        for factor in FACTORS:
            getattr(layer, factor).to(dtype)
    activate(policy, [START, TRAINED])
    adapter = TrainedAdapter(start, settings.kind == "qlora")
    return replace(policy, adapter=adapter)


def check_targets(policy: Policy, settings: Adapter) -> None:
    """RecipeError for a name in `adapter.targets` that is none of the layers' linear maps."""
    known = list(dict.fromkeys(name.rpartition(".")[2] for name, _ in linear_maps(policy.model)))
    for target in set(settings.targets) - set(known):
        raise RecipeError(
            f"adapter.targets: {target!r} is no linear map inside the layers of this model, which "
            f"are {', '.join(known)} (the head and the embedding take no adapter)"
        )


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
