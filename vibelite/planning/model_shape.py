"""The sizes of a decoder-only model, from its config.json or from the list here; no torch."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vibelite.errors import RecipeError
from vibelite.recipe.model_section import Model, SmolLM2Model, TinyModel

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
FLOAT32 = BYTES["float32"]

# The names in a Hugging Face config.json without which nothing can be said.
REQUIRED = (
    *("num_hidden_layers", "hidden_size", "intermediate_size"),
    *("num_attention_heads", "vocab_size"),
)
# Any of these makes it a mixture of experts.
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
HUB_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a Llama-like decoder: gated MLP of three matrices, RMS norms, shared key-value
    heads; `tied` = the head is the input embedding. Norms and biases, under 0.1%, do not count.
    """

    num_layers: int
    hidden_size: int
    mlp_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    vocab_size: int
    tied: bool

    @property
    def query_size(self) -> int:
        return self.num_heads * self.head_size

    @property
    def key_size(self) -> int:
        return self.num_kv_heads * self.head_size

    @property
    def layer_parameters(self) -> int:
        attention = 2 * self.hidden_size * (self.query_size + self.key_size)
        return attention + 3 * self.hidden_size * self.mlp_size

    @property
    def embedding_parameters(self) -> int:
        return self.vocab_size * self.hidden_size * (1 if self.tied else 2)

    @property
    def num_parameters(self) -> int:
        return self.num_layers * self.layer_parameters + self.embedding_parameters


def shape_of_config(config: Mapping[str, Any]) -> ModelShape:
    """The shape of the model of a Hugging Face config.json, of a model of text and images its text
    model; absent keys mean what they do to transformers' Llama. RecipeError for something else.
    """
    text = config.get("text_config")
    if isinstance(text, Mapping):
        config = {"tie_word_embeddings": config.get("tie_word_embeddings"), **text}
    if any(isinstance(config.get(name), int) for name in EXPERTS):
        raise RecipeError("the model is a mixture of experts, which cannot be planned")
    missing = [name for name in REQUIRED if not isinstance(config.get(name), int)]
    if missing:
        raise RecipeError(
            f"the model's config.json has no number {', '.join(missing)}; only decoder models of "
            "the Llama and Qwen2 kind can be planned"
        )
    num_heads = config["num_attention_heads"]
    return ModelShape(
        num_layers=config["num_hidden_layers"],
        hidden_size=config["hidden_size"],
        mlp_size=config["intermediate_size"],
        num_heads=num_heads,
        num_kv_heads=config.get("num_key_value_heads") or num_heads,
        head_size=config.get("head_dim") or config["hidden_size"] // num_heads,
        vocab_size=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def shape_of_tiny(model: TinyModel) -> ModelShape:
    """The shape of a recipe's tiny model; its vocabulary is an upper bound."""
    names = ("num_layers", "hidden_size", "mlp_size", "num_heads", "num_kv_heads", "vocab_size")
    sizes = {name: getattr(model, name) for name in names}
    return ModelShape(**sizes, head_size=model.hidden_size // model.num_heads, tied=True)


SMOLLM2_135M = "HuggingFaceTB/SmolLM2-135M"
# From the published config.json: layers, width, MLP, heads, key-value heads, head size, vocabulary,
# tied.
SHAPES = {
    SMOLLM2_135M: ModelShape(30, 576, 1536, 9, 3, 64, 49152, True),
    "HuggingFaceTB/SmolLM2-360M": ModelShape(32, 960, 2560, 15, 5, 64, 49152, True),
    "HuggingFaceTB/SmolLM2-1.7B": ModelShape(24, 2048, 8192, 32, 32, 64, 49152, True),
    "Qwen/Qwen2.5-0.5B": ModelShape(24, 896, 4864, 14, 2, 64, 151936, True),
    "Qwen/Qwen2.5-1.5B": ModelShape(28, 1536, 8960, 12, 2, 128, 151936, True),
    "Qwen/Qwen2.5-Math-1.5B": ModelShape(28, 1536, 8960, 12, 2, 128, 151936, True),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": ModelShape(
        28, 1536, 8960, 12, 2, 128, 151936, False
    ),
    "Qwen/Qwen2.5-3B": ModelShape(36, 2048, 11008, 16, 2, 128, 151936, True),
    "Qwen/Qwen2.5-Coder-3B": ModelShape(36, 2048, 11008, 16, 2, 128, 151936, True),
}
# Fine-tuned variants have the shape of what they were made from.
VARIANTS = ("-Instruct", "-Base")


def shape_of(model: Model, recipe_dir: Path) -> ModelShape:
    """The shape of a recipe's model: from the config.json of its directory, of the cache or of the
    hub, else from the list here. RecipeError where none of them has it.
    """
    if isinstance(model, TinyModel):
        return shape_of_tiny(model)
    if isinstance(model, SmolLM2Model):
        return SHAPES[SMOLLM2_135M]
    local = recipe_dir / Path(model.path).expanduser()
    if local.is_dir():
        file = local / "config.json"
        if not file.is_file():
            raise RecipeError(f"model.path {model.path}: not a model directory (no config.json)")
        return _shape_of_text(file.read_bytes(), str(file))
    text, reason = config_of_hub(model.path, model.revision)
    if text is not None:
        return _shape_of_text(text, model.path)
    name = model.path
    for ending in VARIANTS:
        name = name.removesuffix(ending)
    if name in SHAPES:
        return SHAPES[name]
    raise RecipeError(
        f"model.path {model.path}: no such directory, and as a model of the hub its size is not "
        f"known here ({reason}); download its config.json into a directory, and name that with "
        "--set model.path=DIRECTORY (vibelite init: --model DIRECTORY)"
    )


def config_of_hub(name: str, revision: str) -> tuple[bytes | None, str]:
    """The config.json of a model in the cache, else of the hub; without one, None and why."""
    from huggingface_hub import hf_hub_url, try_to_load_from_cache
    from huggingface_hub.constants import is_offline_mode
    from huggingface_hub.utils import HFValidationError, build_hf_headers

    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision)
        url = hf_hub_url(name, "config.json", revision=revision)
    except HFValidationError:
        return None, "a name is written owner/name"
    if isinstance(found, str):
        return Path(found).read_bytes(), ""
    if is_offline_mode():
        return None, "not in the cache, and HF_HUB_OFFLINE is set"
    request = urllib.request.Request(url, headers=build_hf_headers())
    try:
        with urllib.request.urlopen(request, timeout=HUB_SECONDS) as answer:
            return answer.read(), ""
    except (OSError, ValueError) as error:  # no network, no such model, not for everybody
        return None, f"not in the cache, and the hub says: {error}"


def _shape_of_text(text: bytes, where: str) -> ModelShape:
    try:
        config = json.loads(text)
        return shape_of_config(config if isinstance(config, dict) else {})
    except (ValueError, RecipeError) as error:
        raise RecipeError(f"{where}: {error}") from error


def model_directory(model: Path) -> Path:
    """The directory of a model: itself, or where the cache has the hub's model of this name, which
    is fetched if it is not there. RecipeError where it cannot be had.
    """
    if model.is_dir():
        return model
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    name = str(model)
    config, reason = config_of_hub(name, "main")
    if config is not None:
        try:
            cached = Path(snapshot_download(name, local_files_only=True))
            if any(cached.glob("*.safetensors")) or any(cached.glob("*.bin")):
                return cached
        except LocalEntryNotFoundError:
            pass  # only a name until now
        try:
            return Path(snapshot_download(name, ignore_patterns=["*.gguf", "*.pth", "original/*"]))
        except OSError as error:
            reason = str(error)
    raise RecipeError(
        f"{model}: no such model directory, and the hub's model of this name cannot be had "
        f"({reason}); name a directory"
    )
