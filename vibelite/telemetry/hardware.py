"""What the machine is and how much of its memory was used; no host names, no serial numbers."""

from __future__ import annotations

import os
import platform
import re
import resource
import sys
from pathlib import Path
from typing import Any

PROCESS_STATUS = Path("/proc/self/status")
CPU_INFO = Path("/proc/cpuinfo")


def peak_resident_bytes() -> int:
    """Of this process. Linux: VmHWM, as ru_maxrss starts at the peak of the process before."""
    if PROCESS_STATUS.exists():
        return int(field_of(PROCESS_STATUS, "VmHWM").split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def available_bytes() -> int:
    """Memory of the host that this process may still take: the machine's, or its container's."""
    import psutil

    free = psutil.virtual_memory().available
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.exists() and used.exists() and (text := limit.read_text().strip()) != "max":
        free = min(free, int(text) - int(used.read_text()))
    return free


def resident_bytes() -> int:
    import psutil

    return psutil.Process().memory_info().rss


def field_of(path: Path, field: str) -> str:
    """The text behind `field` in a file of `field: text` lines; "" where it has no such line."""
    found = re.search(rf"^{field}\s*:(.*)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1].strip() if found else ""


def describe_hardware() -> dict[str, Any]:
    """Processor, memory and GPUs, for the manifest. Memory in bytes."""
    import psutil
    import torch

    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    properties = [torch.cuda.get_device_properties(index) for index in range(num_gpus)]
    return {
        "cpu": cpu_name(),
        "num_cpus": num_usable_cpus(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": [
            {
                "name": gpu.name,
                "memory_bytes": gpu.total_memory,
                "capability": f"{gpu.major}.{gpu.minor}",
            }
            for gpu in properties
        ],
    }


def num_usable_cpus() -> int:
    """CPUs that this process may run on, which in a container can be fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name() -> str:
    """The processor's marketing name, or its architecture where that is all there is."""
    name = field_of(CPU_INFO, "model name") if CPU_INFO.exists() else ""
    return name or platform.machine()
