"""Predicted bytes of activations, by hand and against every allocation that torch makes."""

import pytest
import torch

from benchmarks.memory_growth import peak_allocated_bytes, predicted_bytes
from benchmarks.random_policy import random_batch, random_policy, train
from vibelite.models.activations import apply_activations
from vibelite.planning.activation_memory import activation_bytes
from vibelite.planning.model_shape import ModelShape, shape_of_config
from vibelite.recipe.model_section import Training

QWEN25_1_5B = ModelShape(28, 1536, 8960, 12, 2, 128, 151936, True)
# Queries, keys, width and MLP all differ, so that no term can stand in for another.
CONFIG = {
    "vocab_size": 320, "hidden_size": 96, "intermediate_size": 352, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "tie_word_embeddings": True, "max_position_embeddings": 4096,
}  # fmt: skip
LENGTHS = [256] * 6
TOKENS = sum(LENGTHS)
SETTINGS = [
    (name, tile) for name in ("keep", "checkpoint", "checkpoint_offload") for tile in (0, 64)
]


def allocated_bytes(activations, tile_tokens, *, dtype=torch.float32, lengths=LENGTHS, **sizes):
    """The peak of one micro-batch above model and gradients."""
    config = CONFIG | sizes
    policy = random_policy(config, dtype=dtype)
    training = Training(activations=activations, mlp_tile_tokens=tile_tokens)
    apply_activations(policy.model, training)
    train(policy, random_batch([16], config["vocab_size"], trained_share=1.0))
    batch = random_batch(lengths, config["vocab_size"], trained_share=0.25)
    return peak_allocated_bytes(lambda: train(policy, batch))


@pytest.mark.parametrize(("activations", "tile_tokens"), SETTINGS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_prediction_is_within_ten_percent_of_what_is_allocated(activations, tile_tokens, dtype):
    training = Training(dtype=dtype, activations=activations, mlp_tile_tokens=tile_tokens)
    predicted = predicted_bytes(shape_of_config(CONFIG), training, (TOKENS, TOKENS // 4))
    found = allocated_bytes(activations, tile_tokens, dtype=getattr(torch, dtype))
    assert predicted == pytest.approx(found, rel=0.1)


def test_tiles_never_hold_the_mlp_of_all_tokens():
    whole = 4 * TOKENS * 4096
    assert allocated_bytes("checkpoint", 0, intermediate_size=4096) > 5 * whole
    # Gradients of the MLP's matrices, five times 96 x 4096, are most of what is left.
    assert allocated_bytes("checkpoint", 64, intermediate_size=4096) < whole


def test_nothing_grows_with_the_square_of_a_sequence():
    one = allocated_bytes("checkpoint", 64, lengths=[4096])
    eight = allocated_bytes("checkpoint", 64, lengths=[512] * 8)
    assert one < 4 * 4096**2 / 2
    # The kernel's own backward workspace is a little larger in longer sequences.
    assert one < 1.1 * eight


def test_nothing_grows_with_tokens_times_vocabulary():
    """Beyond the fixed 32 MiB of logits at a time, which 128 trained tokens fill already."""
    few, many = (
        allocated_bytes("checkpoint", 64, lengths=[256] * count, vocab_size=65536)
        for count in (2, 16)
    )
    assert many - few < 0.2 * 4 * (1024 - 128) * 65536


def parts_of(activations, tile_tokens, tokens=1000):
    training = Training(dtype="bfloat16", activations=activations, mlp_tile_tokens=tile_tokens)
    return activation_bytes(QWEN25_1_5B, training, tokens)


def test_a_layer_of_qwen25_1_5b_keeps_107_kb_a_token():
    parts = parts_of("keep", 0)
    # Input and residual 2, norms' outputs 2: 4 x 3072. Attention: queries twice, keys, values,
    # 12 float32 log-sums. MLP 4 x 17920. Two norms: 3072 + 6144 + 4 each.
    per_token = 4 * 3072 + 2 * (2 * 1536 + 2 * 256) + 48 + 4 * 17920 + 2 * 9220
    assert per_token == 109_624
    assert parts["kept"] == 28 * 1000 * per_token
    assert "offloaded" not in parts


def test_offloading_leaves_two_inputs_on_the_device():
    kept, moved = (parts_of(name, 4096) for name in ("checkpoint", "checkpoint_offload"))
    assert kept["kept"] == moved["offloaded"] == 28 * 1000 * 3072
    assert moved["kept"] == 2 * 1000 * 3072
    assert kept["work"] == moved["work"]


def test_a_tile_as_large_as_the_micro_batch_tiles_nothing():
    assert parts_of("keep", 4096, tokens=4096) == parts_of("keep", 0, tokens=4096)
