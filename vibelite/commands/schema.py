"""`vibelite schema`: which keys a recipe may have."""

from __future__ import annotations

from vibelite.commands.options import print_json


def schema() -> None:
    """Print the JSON schema of recipes, for the completion of editors.

    vibelite schema > recipe.schema.json
    """
    from vibelite.recipe.schema import Recipe

    print_json(Recipe.model_json_schema())
