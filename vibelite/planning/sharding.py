"""What the GPUs of a run share: the choice behind `parallel.sharding: auto`."""

from __future__ import annotations

from typing import Literal

from vibelite.planning.optimizer_memory import BYTES
from vibelite.recipe.schema import Recipe

Sharding = Literal["optimizer", "full"]
# Of a GPU's memory, for weights and gradients of a rank that holds them whole; the rest is for its
# part of the optimizer's state, activations and the cache. With float32 gradients that is up to
# 1.6e9 parameters on 24 GiB and 5.7e9 on 80 GiB.
LARGEST_WHOLE_SHARE = 0.4


def chosen_sharding(
    recipe: Recipe, num_parameters: int, *, num_gpus: int, memory_bytes: int | None
) -> Sharding:
    """How a recipe's weights are held by `num_gpus` ranks with so much memory each; None = on a
    processor, where all ranks have the same memory.
    """
    sharding = recipe.parallel.sharding
    if num_gpus == 1:
        return "optimizer"
    if sharding != "auto":
        return sharding
    if recipe.adapter is not None or memory_bytes is None:
        return "optimizer"
    training = recipe.training
    whole = (BYTES[training.dtype] + BYTES[training.gradient_dtype]) * num_parameters
    return "full" if whole > LARGEST_WHOLE_SHARE * memory_bytes else "optimizer"
