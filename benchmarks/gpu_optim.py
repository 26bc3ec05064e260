"""Seconds and bytes of one optimizer step of a 1.5B model, for every way to update.

    python -m benchmarks.gpu_optim [--out FILE.json] [--tiny]

Random weights of the exact shapes of Qwen2.5-1.5B. In place of a backward pass every parameter is
given a random gradient through autograd, last layer first, so hooks and streams run as in training
while the GPU has nothing else to do. `gradient_seconds`: until the GPU has handed all of them over,
which in training happens beside the backward pass. `step_seconds`: the rest of the host's sums,
norm, clipping, update, and for adamw_cpu the weights' way back. Floors: the bytes that an exact
update must move in the memory where it happens, at that memory's measured copying speed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import torch

from benchmarks.gpu_activations import QWEN_1_5B, TINY
from benchmarks.random_policy import now, random_policy
from benchmarks.row_report import (
    COLUMNS,
    Row,
    SaveRows,
    forget,
    release,
    rows_of,
    run_command,
)
from vibelite.models.load import default_device
from vibelite.planning.memory_model import bytes_per_parameter
from vibelite.recipe.model_section import Training
from vibelite.recipe.stage_section import Optimizer
from vibelite.telemetry.memory import resident_bytes
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


def measure(
    config: Mapping[str, Any] = QWEN_1_5B,
    *,
    device: torch.device | None = None,
    repeats: int = 3,
    save: SaveRows = forget,
) -> list[dict[str, Any]]:
    """One row per configuration, `save` gets them after each; seconds are medians."""
    device = device or default_device()
    speeds = {name: copy_speed(torch.device(name)) for name in {device.type, "cpu"}}

    def row_maker(kind: str, dtype: str, gradient_dtype: str) -> Callable[[], Iterator[Row]]:
        def make_row() -> Iterator[Row]:
            training = cast(Any, Training)(dtype=dtype, gradient_dtype=gradient_dtype)
            optimizer = cast(Any, Optimizer)(kind=kind, lr=1e-6)
            row = measure_one(config, optimizer, training, device, repeats)
            if kind in ("adamw", "adamw_cpu"):
                moved = update_bytes(dtype, gradient_dtype) * row["num_parameters"]
                row["floor_seconds"] = moved / speeds["cpu" if "cpu" in kind else device.type]
            yield row

        return make_row

    cases = [
        (
            {"kind": kind, "dtype": dtype, "gradient_dtype": gradients},
            row_maker(kind, dtype, gradients),
        )
        for kind, dtype, gradients in CONFIGURATIONS
    ]
    return rows_of(cases, COLUMNS["optim"], save)


def measure_one(
    config: Mapping[str, Any],
    kind: Optimizer,
    training: Training,
    device: torch.device,
    repeats: int,
) -> dict[str, Any]:
    """Seconds and bytes of one configuration, in memory that nothing else is left in."""
    release()
    host_before = resident_bytes()
    held_before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    policy = random_policy(config, dtype=getattr(torch, training.dtype), device=device)
    optimizer = PolicyOptimizer(policy, kind, num_steps=100, training=training)
    parameters = list(policy.model.parameters())
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
    predicted = bytes_per_parameter(kind.kind, training.dtype, training.gradient_dtype)
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


if __name__ == "__main__":
    run_command("optim", measure, {"config": TINY, "repeats": 1})
