"""What a plan can be made for: a listed GPU or this machine's processor, with any of its numbers
changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from vibelite.errors import RecipeError
from vibelite.planning.cpu import RATES, Cpu, CpuRates, ProductRates
from vibelite.planning.gpus import Gpu, gpu_named
from vibelite.recipe.suggest import did_you_mean

CPU = "cpu"
GIB = 1 << 30
# How a command line names them: memory in GiB, all others as they are.
MEMORY = "memory_gib"


def device_named(name: str) -> Gpu | Cpu:
    """A listed GPU, or this machine without one; RecipeError with the nearest names otherwise."""
    if name != CPU:
        return gpu_named(name)
    import psutil

    return Cpu(CPU, psutil.virtual_memory().total, RATES)


def with_rates(device: Gpu | Cpu, changes: Mapping[str, float]) -> Gpu | Cpu:
    """The device with these numbers in place of its own: `memory_gib`, and the names of its rates;
    those of a processor's products are such as `medium.flops`.
    """
    names = rate_names(device)
    unknown = [name for name in changes if name not in names]
    if unknown:
        hint = did_you_mean(unknown[0], names)
        raise RecipeError(f"--rate {unknown[0]}: {device.name} has no such number{hint}")
    if MEMORY in changes:
        device = replace(device, memory_bytes=int(changes[MEMORY] * GIB))
    rest = {name: value for name, value in changes.items() if name != MEMORY}
    if isinstance(device, Gpu):
        return replace(device, **rest)
    return replace(device, rates=_changed(device.rates, rest))


def rate_names(device: Gpu | Cpu) -> list[str]:
    if isinstance(device, Gpu):
        return [MEMORY, "bytes_per_second", "bf16_flops"]
    nested: list[str] = [MEMORY]
    for name, value in asdict(device.rates).items():
        nested += [f"{name}.{part}" for part in value] if isinstance(value, dict) else [name]
    return nested


def _changed(rates: CpuRates, changes: Mapping[str, float]) -> CpuRates:
    values: dict[str, Any] = {field.name: getattr(rates, field.name) for field in fields(rates)}
    for name, value in changes.items():
        group, _, part = name.partition(".")
        before = values[group]
        values[group] = replace(before, **{part: value}) if part else value
        assert isinstance(before, ProductRates) == bool(part), name
    return CpuRates(**values)
