"""The shape of a recipe's model without opening it: from its config.json, or from the list of
published ones here.
"""

from __future__ import annotations

import json
from pathlib import Path

from vibelite.errors import RecipeError
from vibelite.planning.model_shape import ModelShape, shape_of_config, shape_of_tiny
from vibelite.recipe.model_section import Model, SmolLM2Model, TinyModel

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
    "Qwen/Qwen2.5-3B": ModelShape(36, 2048, 11008, 16, 2, 128, 151936, True),
    "Qwen/Qwen2.5-Coder-3B": ModelShape(36, 2048, 11008, 16, 2, 128, 151936, True),
}
# Fine-tuned variants have the shape of what they were made from.
VARIANTS = ("-Instruct", "-Base")


def shape_of(model: Model, recipe_dir: Path) -> ModelShape:
    """The shape of a recipe's model; RecipeError where it cannot be known without a network."""
    if isinstance(model, TinyModel):
        return shape_of_tiny(model)
    if isinstance(model, SmolLM2Model):
        return SHAPES[SMOLLM2_135M]
    config = recipe_dir / model.path / "config.json"
    if config.is_file():
        try:
            values = json.loads(config.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RecipeError(f"{config}: not JSON ({error})") from error
        return shape_of_config(values)
    name = model.path
    for ending in VARIANTS:
        name = name.removesuffix(ending)
    if name in SHAPES:
        return SHAPES[name]
    raise RecipeError(
        f"model.path {model.path}: its shape is not known here; download its config.json into a "
        "directory and give that with --set model.path=DIRECTORY"
    )
