"""How much memory each phase of a run needs, and the alarm when it grows from step to step."""

from __future__ import annotations

import ctypes
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from vibelite.errors import VibeLiteError
from vibelite.units import gib_text

PROCESS_STATUS = Path("/proc/self/status")
# Writing 5 there starts the peak of resident memory again at its present value (Linux, proc(5)).
CLEAR_REFS = Path("/proc/self/clear_refs")
RESET_PEAK = "5"

# mallopt(3): requests of at least so many bytes are mapped from the system one by one. Setting it
# also ends glibc's own raising of it.
M_MMAP_THRESHOLD = -3
MMAP_THRESHOLD_BYTES = 1 << 20

# Steps between two looks of the leak watch; so many that each exceed the one before are a leak.
CHECK_EVERY, NUM_GROWN = 10, 3
# Share of growth between two looks that counts. On a CPU oneDNN keeps about half a MiB for every
# new shape of a bfloat16 product (SmolLM2-135M: 0.7% a step).
MIN_GROWTH_GPU, MIN_GROWTH_HOST = 0.01, 0.10


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


def take_peak_bytes() -> int:
    """The most memory used since the last call. With a GPU in use: torch's peak of allocated bytes,
    plus what the driver counts beside (context, libraries, an engine's pool, other processes). Else
    this process's resident memory.
    """
    torch = _torch_on_gpu()
    if torch is not None:
        free, total = torch.cuda.mem_get_info()
        beside = total - free - torch.cuda.memory_reserved()
        peak = torch.cuda.max_memory_allocated() + beside
        torch.cuda.reset_peak_memory_stats()
        return peak
    peak = peak_resident_bytes()
    if CLEAR_REFS.exists():
        CLEAR_REFS.write_text(RESET_PEAK)
    return peak


def bytes_held() -> int:
    """What is held right now: torch's allocated bytes on the GPU in use, else resident memory after
    the C library has given back what it keeps for reuse.
    """
    torch = _torch_on_gpu()
    if torch is not None:
        return torch.cuda.memory_allocated()
    _call_glibc("malloc_trim", 0)
    return resident_bytes()


def return_freed_tensors() -> None:
    """From now on a freed tensor's memory goes back to the system at once, not to glibc's heap,
    which keeps the holes between phases: between the steps of SmolLM2-135M 4.4 GB stayed resident,
    and 2.4 GB with this, at the same speed. No effect with another C library.
    """
    _call_glibc("mallopt", M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)


def _call_glibc(function: str, *arguments: int) -> None:
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), function):
        getattr(ctypes.CDLL(None), function)(*arguments)


class LeakWatch:
    """Ends a run whose memory between steps keeps growing, before the machine ends it."""

    def __init__(self, held: Callable[[], int] = bytes_held) -> None:
        self._held = held
        self._min_growth = MIN_GROWTH_HOST if _torch_on_gpu() is None else MIN_GROWTH_GPU
        self._looks: list[int] = []

    def check(self, step: int) -> None:
        """Called after every step (1-based); looks at some. VibeLiteError on steady growth."""
        if step % CHECK_EVERY:
            return
        self._looks = [*self._looks, self._held()][-NUM_GROWN - 1 :]
        pairs = list(zip(self._looks[:-1], self._looks[1:], strict=True))
        if len(pairs) == NUM_GROWN and all(b > a * (1 + self._min_growth) for a, b in pairs):
            first, last = gib_text(self._looks[0]), gib_text(self._looks[-1])
            raise VibeLiteError(
                f"step {step}: memory held between steps grew from {first} to {last} GiB "
                f"in {CHECK_EVERY * NUM_GROWN} steps and does not stop. The run resumes from its "
                "last checkpoint; please report it with the recipe"
            )


def _torch_on_gpu():
    """torch, if this process has loaded it and uses a GPU."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_initialized() else None
