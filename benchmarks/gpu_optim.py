"""Seconds and bytes of one optimizer step of a 1.5B model, for every way to update.

    python -m benchmarks.gpu_optim [--out FILE.json] [--only adamw_cpu ...] [--tiny]

Random weights of the exact shapes of Qwen2.5-1.5B. In place of a backward pass every parameter is
given a random gradient through autograd, last layer first, so hooks and streams run as in training
while the GPU has nothing else to do. `gradient_seconds`: until the GPU has handed all of them over,
which in training happens beside the backward pass. `step_seconds`: the rest of the host's sums,
norm, clipping, update, and for adamw_cpu the weights' way back. Floors: the bytes that an exact
update must move in the memory where it happens, at that memory's measured copying speed.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from benchmarks.row_report import SaveRows, forget, row_saver
from vibelite.errors import RecipeError
from vibelite.models.policy import Policy
from vibelite.planning.optimizer_memory import bytes_per_parameter
from vibelite.recipe.model_section import Training
from vibelite.recipe.stage_section import Optimizer
from vibelite.tables import format_table
from vibelite.telemetry.hardware import resident_bytes
from vibelite.training.optim import PolicyOptimizer

# (kind, dtype, gradient_dtype).
CONFIGURATIONS = (
    ("adamw", "float32", "float32"),
    ("adamw", "bfloat16", "float32"),
    ("adamw", "bfloat16", "bfloat16"),
    ("muon", "bfloat16", "float32"),
    ("adamw_8bit", "float32", "float32"),
    ("adamw_8bit", "bfloat16", "bfloat16"),
    ("adamw_8bit_paged", "bfloat16", "bfloat16"),
    ("adamw_cpu", "bfloat16", "float32"),
    ("adamw_cpu", "bfloat16", "bfloat16"),
)
NUM_WARM_UPS = 1
COPY_BYTES = {"cuda": 1 << 30, "cpu": 1 << 28}


@dataclass(frozen=True, slots=True)
class Size:
    """A Qwen2 decoder with a tied head."""

    num_layers: int
    hidden: int
    mlp: int
    key_value: int
    vocab: int


QWEN_1_5B = Size(num_layers=28, hidden=1536, mlp=8960, key_value=256, vocab=151_936)
TINY = Size(num_layers=2, hidden=64, mlp=128, key_value=32, vocab=512)


def layer_shapes(size: Size) -> list[tuple[int, ...]]:
    """The parameters of one layer, in the order of the model."""
    h, m, kv = size.hidden, size.mlp, size.key_value
    attention = [(h, h), (h,), (kv, h), (kv,), (kv, h), (kv,), (h, h)]
    return [*attention, (m, h), (m, h), (h, m), (h,), (h,)]


class Weights(torch.nn.Module):
    """Parameters of a decoder, N(0, 0.02), without a forward pass."""

    def __init__(self, size: Size, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        layers = layer_shapes(size) * size.num_layers
        shapes = [(size.vocab, size.hidden), *layers, (size.hidden,)]
        self.values = torch.nn.ParameterList(
            torch.nn.Parameter(torch.empty(shape, dtype=dtype, device=device).normal_(std=0.02))
            for shape in shapes
        )

    def get_input_embeddings(self) -> Any:
        return argparse.Namespace(weight=self.values[0])

    get_output_embeddings = get_input_embeddings


def measure(
    size: Size = QWEN_1_5B,
    *,
    device: torch.device | None = None,
    repeats: int = 3,
    only: Sequence[str] = (),
    save: SaveRows = forget,
) -> list[dict[str, Any]]:
    """One row per configuration (of the kinds in `only`, if any), `save` gets them after each;
    seconds are medians.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    speeds = {name: copy_speed(torch.device(name)) for name in {device.type, "cpu"}}
    rows = []
    for kind, dtype, gradient_dtype in CONFIGURATIONS:
        if only and kind not in only:
            continue
        row: dict[str, Any] = {"kind": kind, "dtype": dtype, "gradient_dtype": gradient_dtype}
        training = cast(Any, Training)(dtype=dtype, gradient_dtype=gradient_dtype)
        config = cast(Any, Optimizer)(kind=kind, lr=1e-6)
        try:
            row |= measure_one(config, training, size, device, repeats)
        except RecipeError as error:  # bitsandbytes is not there, or there is no GPU
            rows.append(row | {"left_out": str(error)})
            save(rows)
            continue
        if kind == "adamw" or kind == "adamw_cpu":
            memory = "cpu" if kind == "adamw_cpu" else device.type
            row["floor_seconds"] = update_bytes(dtype, gradient_dtype) * row["num_parameters"]
            row["floor_seconds"] /= speeds[memory]
        rows.append(row)
        print(table([row]).splitlines()[-1], flush=True)
        save(rows)
    return rows


def measure_one(
    config: Optimizer, training: Training, size: Size, device: torch.device, repeats: int
) -> dict[str, Any]:
    """Seconds and bytes of one configuration, in memory that nothing else is left in."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    host_before = resident_bytes()
    held_before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    weights = Weights(size, getattr(torch, training.dtype), device)
    policy = Policy(cast(Any, weights), cast(Any, None))
    optimizer = PolicyOptimizer(policy, config, num_steps=100, training=training)
    parameters = list(weights.parameters())
    largest = max(parameter.numel() for parameter in parameters)
    noise = torch.randn(largest, device=device, dtype=parameters[0].dtype)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    gradient_seconds, step_seconds = [], []
    for step in range(NUM_WARM_UPS + repeats):
        start = now(device)
        give_gradients(parameters, noise)
        middle = now(device)
        optimizer.step(step)
        optimizer.finish()
        gradient_seconds.append(middle - start)
        step_seconds.append(now(device) - middle)
    num_parameters = sum(parameter.numel() for parameter in parameters)
    predicted = bytes_per_parameter(config.kind, training.dtype, training.gradient_dtype)
    row: dict[str, Any] = {
        "num_parameters": num_parameters,
        "gradient_seconds": statistics.median(gradient_seconds[NUM_WARM_UPS:]),
        "step_seconds": statistics.median(step_seconds[NUM_WARM_UPS:]),
        "all_step_seconds": step_seconds,
        "predicted_device_bytes": round(predicted.device * num_parameters),
        "predicted_host_bytes": round(predicted.host * num_parameters),
        "host_bytes": resident_bytes() - host_before,
    }
    if device.type == "cuda":
        row["device_bytes"] = torch.cuda.max_memory_allocated() - held_before - noise.nbytes
        row["held_device_bytes"] = torch.cuda.memory_allocated() - held_before - noise.nbytes
    return row


def give_gradients(parameters: Iterable[torch.nn.Parameter], noise: torch.Tensor) -> None:
    """A gradient for every parameter through autograd, the last first, as a backward pass does."""
    for parameter in reversed(list(parameters)):
        torch.autograd.backward(parameter, noise[: parameter.numel()].view(parameter.shape))


def update_bytes(dtype: str, gradient_dtype: str) -> int:
    """Bytes per parameter that exact AdamW reads and writes: gradient, master, moments, weight."""
    gradient = 4 if gradient_dtype == "float32" else 2
    return gradient + 2 * (4 + 8) + (0 if dtype == "float32" else 2)


def copy_speed(device: torch.device) -> float:
    """Bytes per second read and written by a large copy on `device`, the best of five."""
    source = torch.ones(COPY_BYTES[device.type] // 4, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(6):
        start = now(device)
        target.copy_(source)
        seconds.append(now(device) - start)
    return 2 * source.nbytes / min(seconds[1:])


def now(device: torch.device) -> float:
    """Seconds on a clock, once the device has done what it was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as text; GB are 1e9 bytes."""
    header = ["optimizer", "weights", "gradients", "hand-over s", "step s", "floor s",
              "device GB", "predicted", "host GB"]  # fmt: skip
    return format_table(header, [table_row(row) for row in rows])


def table_row(row: dict[str, Any]) -> list[str]:
    names = [row["kind"], row["dtype"], row["gradient_dtype"]]
    if "left_out" in row:
        return [*names, "left out", "", "", "", "", ""]
    seconds = [row["gradient_seconds"], row["step_seconds"], row.get("floor_seconds")]
    sizes = [row.get("device_bytes"), row["predicted_device_bytes"], row["host_bytes"]]
    return [
        *names,
        *("-" if value is None else f"{value:.4f}" for value in seconds),
        *("-" if value is None else f"{value / 1e9:.2f}" for value in sizes),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a model of 0.1M parameters")
    parser.add_argument("--only", nargs="+", default=[], help="kinds of optimizer")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = measure(
        TINY if arguments.tiny else QWEN_1_5B,
        repeats=arguments.repeats,
        only=arguments.only,
        save=row_saver(arguments.out),
    )
    print(table(rows))
    for row in rows:
        if "left_out" in row:
            print(f"left out: {row['kind']}: {row['left_out']}")


if __name__ == "__main__":
    main()
