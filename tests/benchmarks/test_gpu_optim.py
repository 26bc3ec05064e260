"""The benchmark of optimizer steps, on a tiny model without a GPU."""

import torch

from benchmarks.gpu_optim import (
    CONFIGURATIONS,
    QWEN_1_5B,
    TINY,
    layer_shapes,
    measure,
    table,
    update_bytes,
)


def test_the_shapes_are_those_of_qwen2_5_1_5b():
    size = QWEN_1_5B
    layer = sum(torch.Size(shape).numel() for shape in layer_shapes(size))
    total = size.vocab * size.hidden + size.num_layers * layer + size.hidden
    assert total == 1_543_714_304  # the published count


def test_exact_adamw_moves_28_bytes_per_float32_parameter():
    assert update_bytes("float32", "float32") == 28
    assert update_bytes("bfloat16", "bfloat16") == 28
    assert update_bytes("bfloat16", "float32") == 30


def test_every_configuration_is_measured_or_named_as_left_out():
    rows = measure(TINY, device=torch.device("cpu"), repeats=1)
    assert [(r["kind"], r["dtype"], r["gradient_dtype"]) for r in rows] == list(CONFIGURATIONS)
    for row in rows:
        if row["kind"] == "adamw_8bit_paged":
            assert "left_out" in row
        elif "8bit" not in row["kind"]:
            assert row["step_seconds"] > 0 and row["gradient_seconds"] > 0
            assert row["num_parameters"] > 100_000
    assert len(table(rows).splitlines()) == 2 + len(CONFIGURATIONS)
