"""What a plan can be made for: the listed GPUs, with what their makers publish, and this machine's
processor at measured rates. Any of their numbers can be changed. No prices of GPUs: those are an
input, because they differ from day to day and from renter to renter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal

from vibelite.errors import RecipeError
from vibelite.recipe.suggest import did_you_mean
from vibelite.units import GIB

MIB = 1 << 20
GIGA, TERA = 1e9, 1e12
CPU = "cpu"
# How a command line names it; all other numbers are as they are.
MEMORY = "memory_gib"
Products = Literal["float32", "medium", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device: memory as its driver shows it, memory bandwidth, and dense bfloat16 rate."""

    name: str
    memory_bytes: int
    bytes_per_second: float
    bf16_flops: float
    """Floating-point operations a second with float32 accumulation, without sparsity."""


def _gpu(name: str, memory_mib: int, gigabytes_per_second: float, bf16_teraflops: float) -> Gpu:
    return Gpu(name, memory_mib * MIB, gigabytes_per_second * GIGA, bf16_teraflops * TERA)


# Data sheets of the makers (SXM variants where there are several); memory as drivers report it.
GPUS = {
    gpu.name: gpu
    for gpu in (
        _gpu("l4-24gb", 23_034, 300, 121),
        _gpu("a10-24gb", 23_028, 600, 125),
        _gpu("rtx3090-24gb", 24_576, 936, 71),
        _gpu("rtx4090-24gb", 24_564, 1_008, 165),
        _gpu("rtx5090-32gb", 32_607, 1_792, 209),
        _gpu("a100-40gb", 40_960, 1_555, 312),
        _gpu("rtxa6000-48gb", 49_140, 768, 155),
        _gpu("l40s-48gb", 46_068, 864, 362),
        _gpu("a100-80gb", 81_920, 2_039, 312),
        _gpu("h800-80gb", 81_559, 3_350, 989),
        _gpu("h100-80gb", 81_559, 3_350, 989),
        _gpu("h200-141gb", 143_771, 4_800, 989),
        _gpu("b200-192gb", 183_359, 8_000, 2_250),
    )
}


@dataclass(frozen=True, slots=True)
class ProductRates:
    """One way to multiply matrices: in float32, in float32 by way of bfloat16 (`matmul_precision:
    medium`), or in bfloat16.
    """

    flops: float
    """Operations a second of a product of large matrices."""
    weight_bytes_per_second: float
    """At which a large weight passes through a product of few rows."""
    attention_flops: float
    """Operations a second of causal attention, forward and backward."""


@dataclass(frozen=True, slots=True)
class CpuRates:
    """What one thread does in a second, or the seconds it takes."""

    float32: ProductRates
    medium: ProductRates
    bfloat16: ProductRates
    written_bytes_per_second: float
    """Results of an operator on single numbers, into memory that the system has just given."""
    read_bytes_per_second: float
    """Reading memory from end to end."""
    layer_seconds: float
    """Forward and backward of a layer without arithmetic: what calling its operators takes."""
    decode_layer_seconds: float
    """The same for one token while decoding."""
    logit_seconds: float
    """One logit of the fused loss beside the products."""
    sampling_seconds: float
    """One logit of the sampler."""

    def of(self, products: Products) -> ProductRates:
        return getattr(self, products)


# One thread of a shared x86-64 machine with AVX-512 and AMX (Intel Xeon), torch 2.13: medians over
# the steps of an earlier benchmarks/planner_check.py, in a quieter hour than that of its table.
RATES = CpuRates(
    float32=ProductRates(1.9e11, 5.0e9, 4.5e10),
    medium=ProductRates(6.0e11, 9.6e9, 2.7e10),
    bfloat16=ProductRates(1.4e12, 6.2e9, 4.6e10),
    written_bytes_per_second=2.2e9,
    read_bytes_per_second=1.2e10,
    layer_seconds=1.0e-3,
    decode_layer_seconds=2.3e-4,
    logit_seconds=5.0e-9,
    sampling_seconds=4.0e-9,
)


@dataclass(frozen=True, slots=True)
class Cpu:
    """This machine without a GPU, or with another processor's rates."""

    name: str
    memory_bytes: int
    rates: CpuRates


def device_named(name: str) -> Gpu | Cpu:
    """A listed GPU, or this machine without one; RecipeError with the nearest names otherwise."""
    if name == CPU:
        import psutil

        return Cpu(CPU, psutil.virtual_memory().total, RATES)
    if name not in GPUS:
        hint = did_you_mean(name, GPUS)
        raise RecipeError(f"--gpu {name}: not listed{hint}; known are {', '.join(GPUS)}")
    return GPUS[name]


def with_rates(device: Gpu | Cpu, changes: Mapping[str, float]) -> Gpu | Cpu:
    """The device with these numbers in place of its own: `memory_gib`, and the names of its rates;
    those of a processor's products are such as `medium.flops`.
    """
    for name, value in changes.items():
        names = rate_names(device)
        if name not in names:
            hint = did_you_mean(name, names)
            raise RecipeError(f"--rate {name}: {device.name} has no such number{hint}")
        if name == MEMORY:
            device = replace(device, memory_bytes=int(value * GIB))
        elif isinstance(device, Gpu):
            device = replace(device, **{name: value})
        else:
            group, _, part = name.partition(".")
            changed = replace(getattr(device.rates, group), **{part: value}) if part else value
            device = replace(device, rates=replace(device.rates, **{group: changed}))
    return device


def rate_names(device: Gpu | Cpu) -> list[str]:
    """What `with_rates` can change."""
    if isinstance(device, Gpu):
        return [MEMORY, "bytes_per_second", "bf16_flops"]
    names = [MEMORY]
    for name, value in asdict(device.rates).items():
        names += [f"{name}.{part}" for part in value] if isinstance(value, dict) else [name]
    return names
