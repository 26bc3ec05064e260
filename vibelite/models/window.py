"""How many positions a model has, how a recipe changes that, and whether its stages keep within."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vibelite.errors import RecipeError
from vibelite.recipe.model_section import PretrainedModel
from vibelite.recipe.schema import Recipe
from vibelite.recipe.stage_section import SFTStage
from vibelite.run_dir import read_json

POSITIONS = "max_position_embeddings"


def widen(config: Any, model: PretrainedModel) -> None:
    """Writes the recipe's positions and rotary base into a transformers configuration.

    It tells when the model is next loaded; weights stay as they are. RecipeError for a model that
    has no rotary base to change.
    """
    if model.max_position:
        setattr(config, POSITIONS, model.max_position)
    if model.rope_theta:
        rotary = getattr(config, "rope_parameters", None)
        if not isinstance(rotary, dict) or "rope_theta" not in rotary:
            raise RecipeError(f"model.rope_theta: {model.path} has no rotary base; leave it out")
        rotary["rope_theta"] = model.rope_theta


def require_window(recipe: Recipe, directory: Path) -> None:
    """RecipeError where a stage asks for longer sequences than the model in `directory` has
    positions: engines would cut them off, or go on with positions that no training has seen.
    """
    positions = read_json(directory / "config.json").get(POSITIONS)
    if not isinstance(recipe.model, PretrainedModel) or not isinstance(positions, int):
        return
    for stage in recipe.stages:
        sampling = getattr(stage, "sampling", None)
        if isinstance(stage, SFTStage) and stage.max_tokens > positions:
            field, longest = "max_tokens", stage.max_tokens
        elif sampling is not None and sampling.max_new_tokens >= positions:
            field, longest = "sampling.max_new_tokens", sampling.max_new_tokens
        else:
            continue
        raise RecipeError(
            f"stages.{stage.name}.{field} ({longest}): {recipe.model.path} has {positions} "
            "positions for prompt and answer; set model.max_position, and with it model.rope_theta"
        )
