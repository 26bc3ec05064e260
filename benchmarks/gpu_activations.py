"""Peak memory and seconds of one forward and backward pass of a 1.5B model, for every way to keep
activations.

    python -m benchmarks.gpu_activations [--out FILE.json] [--tokens 4096 16384] [--tiny]

Random weights of Qwen2.5-1.5B's exact dimensions in bfloat16, one packed sequence of T tokens,
through `Policy.token_loss`; the gradients' buffers exist before. Peak: torch's allocated bytes,
weights (3.1 GB) and gradients (3.1 GB) included. Seconds: median after one warm-up, by the GPU's
clock. `offload_overhead`: seconds beside the same setting without offloading, as a fraction.
`predicted_bytes`: weights, gradients and `planning.activation_memory`, without the head's own work.
A setting that does not fit is a row with `out_of_memory`.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from benchmarks.memory_growth import peak_allocated_bytes
from benchmarks.random_policy import random_batch, random_policy, train
from benchmarks.row_report import COLUMNS, SaveRows, forget, release, rows_of, run_command
from vibelite.models.activations import apply_activations
from vibelite.models.load import default_device
from vibelite.models.policy import Policy
from vibelite.planning.activation_memory import activation_bytes, head_bytes
from vibelite.planning.model_shape import shape_of_config
from vibelite.recipe.model_section import Training
from vibelite.types import TokenBatch

QWEN_1_5B: Mapping[str, Any] = {
    "vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960,
    "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2,
    "tie_word_embeddings": True, "max_position_embeddings": 131072,
}  # fmt: skip
TINY: Mapping[str, Any] = {
    "vocab_size": 512, "hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True,
}  # fmt: skip
TOKENS = (4096, 16384, 32768, 40960)
TINY_TOKENS = (64, 128)
# (activations, mlp_tile_tokens); an offloaded one behind the one that it is compared with.
SETTINGS: tuple[tuple[str, int], ...] = (
    ("keep", 0),
    ("checkpoint", 0),
    ("checkpoint_offload", 0),
    ("checkpoint", 4096),
    ("checkpoint_offload", 4096),
)
# Above this one timed pass is enough: it takes seconds.
FEW_REPEATS_ABOVE = 16384


def measure(
    config: Mapping[str, Any] = QWEN_1_5B,
    *,
    tokens: Sequence[int] = TOKENS,
    tile_divisor: int = 1,
    device: torch.device | None = None,
    save: SaveRows = forget,
) -> list[dict[str, Any]]:
    """One row per setting and number of tokens, `save` gets them after each; tiles are
    `tile_divisor` times smaller than those of SETTINGS.
    """
    device = device or default_device()
    kept: dict[tuple[int, int], float] = {}  # (tile, tokens) -> seconds of checkpoint

    def row_maker(activations: str, tile: int) -> Callable[[], Iterator[dict[str, Any]]]:
        setting = {"activations": activations, "mlp_tile_tokens": tile // tile_divisor}

        def make_rows() -> Iterator[dict[str, Any]]:
            policy = random_policy(config, dtype=torch.bfloat16, device=device)
            apply_activations(policy.model, Training.model_validate(setting))
            train(policy, random_batch([16], config["vocab_size"], device=device))
            for count in tokens:
                row = setting | {"tokens": count}
                row["predicted_bytes"] = predicted_bytes(config, count, setting)
                batch = random_batch([count], config["vocab_size"], device=device)
                try:
                    row |= measure_one(policy, batch)
                except torch.OutOfMemoryError:
                    row["out_of_memory"] = True
                if activations == "checkpoint":
                    kept[tile, count] = row.get("seconds", math.nan)
                elif activations == "checkpoint_offload" and "seconds" in row:
                    row["offload_overhead"] = row["seconds"] / kept[tile, count] - 1
                yield row
                release()

        return make_rows

    return rows_of([({}, row_maker(*one)) for one in SETTINGS], COLUMNS["activations"], save)


def measure_one(policy: Policy, batch: TokenBatch) -> dict[str, Any]:
    """Peak bytes and seconds of one pass."""
    if policy.device.type == "cpu":
        peak = peak_allocated_bytes(lambda: train(policy, batch))
        held = sum(2 * p.numel() * p.element_size() for p in policy.model.parameters())
        start = time.perf_counter()
        train(policy, batch)
        return {"peak_bytes": peak + held, "seconds": time.perf_counter() - start}
    torch.cuda.reset_peak_memory_stats()
    train(policy, batch)
    row = {"peak_bytes": torch.cuda.max_memory_allocated()}
    seconds = []
    for _ in range(1 if batch.num_tokens > FEW_REPEATS_ABOVE else 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        train(policy, batch)
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3)
    return row | {"seconds": statistics.median(seconds)}


def predicted_bytes(config: Mapping[str, Any], tokens: int, setting: Mapping[str, Any]) -> int:
    """Weights and gradients in bfloat16 and activations, in bytes on the device."""
    shape = shape_of_config(config)
    training = Training.model_validate({"dtype": "bfloat16", **setting})
    parts = activation_bytes(shape, training, tokens)
    parts.pop("offloaded", None)
    held = head_bytes(shape, tokens, 2, logits=0)["held"]
    return round(2 * 2 * shape.num_parameters + held + sum(parts.values()))


if __name__ == "__main__":
    run_command(
        "activations", measure, {"config": TINY, "tokens": TINY_TOKENS, "tile_divisor": 128}
    )
