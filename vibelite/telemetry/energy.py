"""This process's GPUs, their energy and how much they work, as the driver knows them (NVML):
without torch, so that the ledger begins before torch is imported.
"""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

from vibelite.errors import RecipeError

ReadEnergy = Callable[[], int | None]
ReadUse = Callable[[], float | None]
SECONDS_PER_LOOK = 0.25

# One of them exists where a program can use a GPU: NVIDIA's driver, its Windows host, AMD's.
GPU_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))


def no_energy() -> int | None:
    """The reading where nothing measures it."""
    return None


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
    """NVML's handles of the GPUs that CUDA shows this process; None where NVML cannot tell: it or
    its driver is missing, GPUs are cut into parts (MIG), or they differ and are named by number, of
    which CUDA has an order of its own.
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
        if any(is_cut(pynvml, handle) for handle in handles) or (chosen and len(names) > 1):
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
    """The places in `uuids` of the GPUs that CUDA_VISIBLE_DEVICES (None = not set) leaves: by
    number or by the beginning of a UUID, up to the first that is none. None where it says anything
    else, or one twice.

    >>> visible_places("1,GPU-a,7,0", ["GPU-abc", "GPU-def", "GPU-ghi"])
    [1, 0]
    """
    if chosen is None:
        return list(range(len(uuids)))
    places = []
    for name in map(str.strip, chosen.split(",")):
        if not re.fullmatch(r"(-?\d+|GPU-.+)?", name):
            return None
        if name.startswith("GPU-"):
            found = [place for place, uuid in enumerate(uuids) if uuid.startswith(name)]
        else:
            found = [place for place in range(len(uuids)) if str(place) == name]
        if len(found) != 1:
            break
        places += found
    return places if len(set(places)) == len(places) else None


def gpu_energy_reader() -> ReadEnergy:
    """A function that returns the millijoules of this process's GPUs since their driver was loaded;
    None where NVML cannot tell, or a GPU has no counter (before Volta, or a part of one). It is
    renewed every 20 to 100 ms, so it is read once per step, not per span.
    """
    handles = visible_handles() if num_gpus() else None
    if not handles:
        return no_energy
    import pynvml  # pyright: ignore[reportMissingImports]

    def read() -> int | None:
        with suppress(pynvml.NVMLError):
            return sum(map(pynvml.nvmlDeviceGetTotalEnergyConsumption, handles))

    return read


class GpuUse:
    """The share of the time in which these GPUs worked, 0..1, from looks at what the driver says of
    the last moments (nvmlDeviceGetUtilizationRates: over 1/6 to 1 s).
    """

    def __init__(self, pynvml: Any, handles: Sequence[Any]) -> None:
        self._pynvml = pynvml
        self._handles = handles
        self._seen: list[float] = []

    def look(self) -> bool:
        """Whether the driver said anything."""
        try:
            rates = [self._pynvml.nvmlDeviceGetUtilizationRates(each).gpu for each in self._handles]
        except self._pynvml.NVMLError:
            return False
        self._seen.append(fmean(rates) / 100)
        return True

    def take(self) -> float | None:
        """The mean of the looks since this was last asked; None without one."""
        seen, self._seen = self._seen, []
        return fmean(seen) if seen else None

    def watch(self) -> None:
        while self.look():
            time.sleep(SECONDS_PER_LOOK)


@cache
def gpu_use_reader() -> ReadUse:
    """`GpuUse.take` of this process's GPUs, with one thread that looks; None where unknown."""
    handles = visible_handles() if num_gpus() else None
    if not handles:
        return no_energy
    import pynvml  # pyright: ignore[reportMissingImports]

    use = GpuUse(pynvml, handles)
    threading.Thread(target=use.watch, name="gpu use", daemon=True).start()
    return use.take
