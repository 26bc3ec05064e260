"""The energy of this process's GPUs, from the counters that the driver keeps (NVML)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

ReadEnergy = Callable[[], int | None]


# One of them exists where any program can use a GPU: NVIDIA's driver, its Windows host, AMD's.
GPU_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))


def no_energy() -> int | None:
    """The reading of a machine on which nothing measures energy."""
    return None


def num_gpus() -> int:
    """GPUs that this process sees. Asks torch, whose import takes seconds, only on a machine that
    may have one.
    """
    if not any(device.exists() for device in GPU_DEVICES):
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def gpu_energy_reader() -> ReadEnergy:
    """A function that returns the millijoules that this process's GPUs have used since their driver
    was loaded, or None: no GPU, no nvidia-ml-py, no driver, or a GPU without a counter (before
    Volta, or a part of one).

    The counter (nvmlDeviceGetTotalEnergyConsumption) is renewed every 20 to 100 ms, so it is read
    once per step, not per span.
    """
    if not num_gpus():
        return no_energy
    try:
        import pynvml  # pyright: ignore[reportMissingImports]
    except ImportError:
        return no_energy
    import torch

    try:
        pynvml.nvmlInit()
        handles = [
            # By identity: CUDA_VISIBLE_DEVICES renumbers GPUs for torch, and not for NVML.
            pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(i).uuid}")
            for i in range(torch.cuda.device_count())
        ]
    except pynvml.NVMLError:
        return no_energy

    def read() -> int | None:
        try:
            return sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles)
        except pynvml.NVMLError:
            return None

    return read
