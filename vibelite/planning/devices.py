"""What a plan can be made for: GPUs, with what their makers publish, and this machine's processor.
Prices are an input, because they differ from day to day and from renter to renter.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, replace

from vibelite.errors import RecipeError
from vibelite.recipe.suggest import did_you_mean

MIB = 1 << 20
GIGA, TERA = 1e9, 1e12
CPU = "cpu"
# One thread of a shared x86-64 machine with AVX-512 and AMX (Intel Xeon), torch 2.13, in float32: a
# large weight through products of few rows, and products of large matrices.
CPU_BYTES_PER_SECOND, CPU_FLOPS = 5.0e9, 1.9e11


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU: memory as its driver shows it, memory bandwidth, and dense bfloat16 rate; or one
    thread of this machine's processor, with its float32 rate.
    """

    name: str
    memory_bytes: int
    bytes_per_second: float
    flops: float
    """Floating-point operations a second with float32 accumulation, without sparsity."""
    is_cpu: bool = False


def _gpu(name: str, memory_mib: int, gigabytes_per_second: float, bf16_teraflops: float) -> Device:
    return Device(name, memory_mib * MIB, gigabytes_per_second * GIGA, bf16_teraflops * TERA)


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


def device_named(name: str, where: str = "--gpu") -> Device:
    """A listed GPU; "cpu" = this machine's processor, "" = its GPU where it has one. RecipeError
    with the nearest names otherwise; `where` the name stands.
    """
    if not name:
        return this_machine()
    if name == CPU:
        import psutil

        memory = psutil.virtual_memory().total
        return Device(CPU, memory, CPU_BYTES_PER_SECOND, CPU_FLOPS, is_cpu=True)
    if name not in GPUS:
        hint = did_you_mean(name, GPUS).partition("; known")[0]
        raise RecipeError(f"{where} {name}: not listed{hint}; known: {', '.join(GPUS)}, {CPU}")
    return GPUS[name]


def this_machine() -> Device:
    """The first GPU of this machine, with the memory that it has, or its processor. RecipeError for
    a GPU that is not listed.
    """
    found = _driver_says()
    if not found:
        return device_named(CPU)
    name, _, mebibytes = found.splitlines()[0].rpartition(",")
    compact = re.sub(r"[^a-z0-9]", "", name.lower())
    memory = int(mebibytes) * MIB
    # "a10" is in "a100", and there are two of some names.
    alike = [gpu for gpu in GPUS.values() if gpu.name.partition("-")[0] in compact]
    if not alike:
        raise RecipeError(
            f"--gpu: this machine's {name.strip()} is not listed; name the one that is most like "
            f"it, and --assume memory_gib={memory >> 30}: {', '.join(GPUS)}"
        )
    nearest = min(
        alike,
        key=lambda gpu: (-len(gpu.name.partition("-")[0]), abs(gpu.memory_bytes - memory)),
    )
    return replace(nearest, memory_bytes=memory)


def _driver_says() -> str:
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""
