"""The benchmark of activations, on a tiny model without a GPU."""

import torch

from benchmarks.gpu_activations import (
    QWEN_1_5B,
    SETTINGS,
    TINY,
    TINY_TOKENS,
    measure,
    predicted_bytes,
    table,
)
from vibelite.planning.model_shape import shape_of_config


def test_the_model_is_qwen2_5_1_5b():
    assert shape_of_config(QWEN_1_5B).num_parameters == 1_543_569_408


def test_every_setting_is_measured_and_offloading_compared():
    rows = measure(TINY, tokens=TINY_TOKENS, tile_divisor=128, device=torch.device("cpu"))
    assert len(rows) == len(SETTINGS) * len(TINY_TOKENS)
    assert all(row["seconds"] > 0 for row in rows)
    offloaded = [row for row in rows if "offload_overhead" in row]
    assert len(offloaded) == 2 * len(TINY_TOKENS)
    by_setting = {(r["activations"], r["mlp_tile_tokens"], r["tokens"]): r for r in rows}
    kept = by_setting["keep", 0, 128]["peak_bytes"]
    assert by_setting["checkpoint", 0, 128]["peak_bytes"] < kept
    row = by_setting["checkpoint_offload", 32, 128]
    other = by_setting["checkpoint", 32, 128]
    assert row["offload_overhead"] == row["seconds"] / other["seconds"] - 1
    assert len(table(rows).splitlines()) == len(rows) + 2


def test_forty_thousand_tokens_fit_into_24_gb_by_the_prediction():
    setting = {"mlp_tile_tokens": 4096}
    assert predicted_bytes(QWEN_1_5B, "checkpoint_offload", 40960, setting) < 10e9
    assert predicted_bytes(QWEN_1_5B, "keep", 40960, {"mlp_tile_tokens": 0}) > 100e9
