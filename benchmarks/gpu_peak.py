"""The most memory that a GPU held while something ran, whoever took it. Imports torch alone, so
that a rival's process can use it too.
"""

from __future__ import annotations

import threading
from typing import Any

import torch

SECONDS_BETWEEN = 0.02


class PeakWatch:
    """Asks the driver in a thread how much of the GPU is in use; pools that torch does not count
    (vLLM's) are in it, and so is CUDA's context.
    """

    def __init__(self) -> None:
        self._peak = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        if torch.cuda.is_available():
            torch.cuda.init()
            self._thread.start()

    def _watch(self) -> None:
        while not self._end.wait(SECONDS_BETWEEN):
            free, total = torch.cuda.mem_get_info()
            self._peak = max(self._peak, total - free)

    def take(self) -> dict[str, Any]:
        """Peaks since the last call; empty without a GPU."""
        if not torch.cuda.is_available():
            return {}
        peak, self._peak = self._peak, 0
        allocated = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return {"peak_used_bytes": peak, "peak_allocated_bytes": allocated}

    def close(self) -> None:
        self._end.set()
