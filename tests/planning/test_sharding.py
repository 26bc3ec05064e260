"""What the GPUs share, by the size of the model and of their memory."""

from pathlib import Path

import pytest

from vibelite.planning.sharding import chosen_sharding
from vibelite.recipe.load import load_recipe

RECIPE = Path(__file__).parents[1] / "distributed" / "ranks.yaml"
GIB = 2**30
LORA = "adapter={kind: lora}"


@pytest.mark.parametrize(
    ("num_parameters", "num_gpus", "memory_gib", "settings", "expected"),
    [
        (1.5e9, 8, 24, ["training.dtype=bfloat16"], "optimizer"),
        (3.1e9, 8, 24, ["training.dtype=bfloat16"], "full"),
        (3.1e9, 8, 80, ["training.dtype=bfloat16"], "optimizer"),
        (7.6e9, 8, 80, ["training.dtype=bfloat16"], "full"),
        (7.6e9, 8, 80, ["training={dtype: bfloat16, gradient_dtype: bfloat16}"], "optimizer"),
        (7.6e9, 8, 80, ["training.dtype=bfloat16", LORA], "optimizer"),
        (7.6e9, 1, 80, ["parallel.sharding=full"], "optimizer"),
        (7.6e9, 8, None, [], "optimizer"),
        (1e6, 2, None, ["parallel.sharding=full"], "full"),
        (7.6e9, 8, 80, ["parallel.sharding=optimizer"], "optimizer"),
    ],
)
def test_weights_are_cut_where_they_would_fill_a_gpu(
    num_parameters, num_gpus, memory_gib, settings, expected
):
    recipe = load_recipe(RECIPE, settings)
    memory = None if memory_gib is None else memory_gib * GIB
    chosen = chosen_sharding(recipe, int(num_parameters), num_gpus=num_gpus, memory_bytes=memory)
    assert chosen == expected
