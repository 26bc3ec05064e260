"""`vibelite fuse`: the mean of models, without a run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from vibelite.commands.options import (
    AsJson,
    Models,
    print_json,
    require_models,
)
from vibelite.errors import RecipeError
from vibelite.planning.model_shape import model_directory


def fuse(
    models: Models,
    output: Annotated[Path, typer.Option("--output", "-o", help="The new model directory.")],
    weights: Annotated[
        str, typer.Option(help="One number per model, such as 0.5,0.5; empty = all the same.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """The weighted mean of models, computed in float32 tensor by tensor.

    vibelite fuse algebra/ geometry/ --weights 0.5,0.5 -o fused
    """
    try:
        numbers = [float(part) for part in weights.split(",")] if weights else [1.0] * len(models)
    except ValueError as error:
        raise RecipeError(f"--weights {weights}: must be numbers such as 0.5,0.5") from error
    require_models(models)
    with redirect_stdout(sys.stderr):
        result = fuse_directories(models, numbers, output)
    if as_json:
        print_json(result)
        return
    for source in result["sources"]:
        print(f"{source['weight']:.4f}  {source['model']}")
    print(f"fused into {result['output']}")


def fuse_directories(
    models: Sequence[Path], weights: Sequence[float], output: Path
) -> dict[str, Any]:
    """Writes the mean of `models`, with `weights` normalised, to the new directory `output`."""
    from vibelite.stages.fuse import write_fused

    if len(weights) != len(models):
        raise RecipeError(f"--weights: {len(weights)} weights for {len(models)} models")
    if min(weights) < 0 or sum(weights) == 0:
        raise RecipeError(f"--weights: {list(weights)}: none may be negative, nor all 0")
    if output.exists():
        raise RecipeError(f"{output}: exists already; name a new directory")
    paths = [model_directory(model).resolve() for model in models]
    write_fused(paths, [str(model) for model in models], weights, output)
    total = sum(weights)
    sources = [
        {"model": str(model), "weight": weight / total}
        for model, weight in zip(models, weights, strict=True)
    ]
    return {"output": str(output), "sources": sources}
