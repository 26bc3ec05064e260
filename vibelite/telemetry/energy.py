"""This process's GPUs, their energy and how much they work, as the driver knows them (NVML):
without torch, so that the ledger begins before torch is imported.
"""

from __future__ import annotations

import importlib.util
import os
import runpy
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

from vibelite.errors import RecipeError

SECONDS_PER_LOOK = 0.25

# One of them exists where a program can use a GPU: NVIDIA's driver, its Windows host, AMD's.
GPU_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))


def num_gpus() -> int:
    """GPUs that this process sees, by NVIDIA's driver, as importing torch takes seconds; by torch
    where only it can know.
    """
    if not any(device.exists() for device in GPU_DEVICES) or not is_torch_for_gpus():
        return 0
    handles = visible_handles()
    return num_gpus_of_torch() if handles is None else len(handles)


def num_gpus_of_torch() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def require_known_gpus() -> None:
    """RecipeError unless torch sees the GPUs that `num_gpus` counts; imports torch."""
    counted, seen = num_gpus(), num_gpus_of_torch()
    if counted != seen:
        raise RecipeError(
            f"the NVIDIA driver has {counted} GPUs for this run, and torch sees {seen}: install a "
            "torch that fits the driver (`vibelite doctor`), or set CUDA_VISIBLE_DEVICES= (empty) "
            "to run on the CPU"
        )


def is_torch_for_gpus() -> bool:
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None, "torch is installed with this package"
    version = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    return bool(version["cuda"] or version["hip"])


def visible_handles() -> list[Any] | None:
    """NVML's handles of the GPUs that CUDA shows this process; None where NVML cannot tell: without
    a driver, with GPUs that are cut (MIG), or by numbers of GPUs that differ, which CUDA orders.
    """
    try:
        import pynvml  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        names = {pynvml.nvmlDeviceGetName(handle) for handle in handles}
        uuids = [pynvml.nvmlDeviceGetUUID(handle) for handle in handles]
        is_numbered = bool(chosen) and "GPU-" not in chosen
        if any(is_cut(pynvml, handle) for handle in handles) or (is_numbered and len(names) > 1):
            return None
    except pynvml.NVMLError:
        return None
    places = visible_places(chosen, uuids)
    return None if places is None else [handles[place] for place in places]


def is_cut(pynvml: Any, handle: Any) -> bool:
    try:
        return bool(pynvml.nvmlDeviceGetMigMode(handle)[0])
    except pynvml.NVMLError:
        return False


def visible_places(chosen: str | None, uuids: Sequence[str]) -> list[int] | None:
    """The places of the GPUs that CUDA_VISIBLE_DEVICES (None = not set) leaves of those with these
    `uuids`; None where it says anything but different numbers or beginnings of UUIDs.
    """
    if not chosen:
        return list(range(len(uuids) if chosen is None else 0))
    places = [place_of(name.strip(), uuids) for name in chosen.split(",")]
    is_known = len(set(places)) == len(places) and max(places) < len(uuids)
    return places if is_known else None


def place_of(name: str, uuids: Sequence[str]) -> int:
    """By number, or the one UUID that begins so; the number of all where there is none."""
    if name.isdecimal():
        return int(name)
    found = [place for place, uuid in enumerate(uuids) if uuid.startswith(name)]
    return found[0] if name.startswith("GPU-") and len(found) == 1 else len(uuids)


class GpuMeter:
    """Energy and use of these GPUs, as NVML knows them; None where it does not."""

    def __init__(self, pynvml: Any, handles: Sequence[Any]) -> None:
        self._pynvml = pynvml
        self._handles = handles
        self._seen: list[float] = []

    def millijoules(self) -> int | None:
        """Used since the driver was loaded; a counter before Volta, or of a part of a GPU, there is
        none. Renewed every 20 to 100 ms, so it is read once per step, not per span.
        """
        with suppress(self._pynvml.NVMLError):
            return sum(map(self._pynvml.nvmlDeviceGetTotalEnergyConsumption, self._handles))

    def look(self) -> bool:
        """Takes in the share of the last 1/6 to 1 s in which they worked; whether it is known."""
        try:
            rates = [self._pynvml.nvmlDeviceGetUtilizationRates(each).gpu for each in self._handles]
        except self._pynvml.NVMLError:
            return False
        self._seen.append(fmean(rates) / 100)
        return True

    def use(self) -> float | None:
        """The mean of the looks since this was last asked, 0..1; None without one."""
        seen, self._seen = self._seen, []
        return fmean(seen) if seen else None

    def watch(self) -> None:
        while self.look():
            time.sleep(SECONDS_PER_LOOK)


@cache
def gpu_meter() -> GpuMeter | None:
    """Of this process's GPUs, with one thread that looks; None without any that NVML can tell."""
    handles = visible_handles() if num_gpus() else None
    if not handles:
        return None
    import pynvml  # pyright: ignore[reportMissingImports]

    meter = GpuMeter(pynvml, handles)
    threading.Thread(target=meter.watch, name="gpu use", daemon=True).start()
    return meter
