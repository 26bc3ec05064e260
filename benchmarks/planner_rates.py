"""How fast one thread of this processor is right now: the two rates from which a plan for it is
made.

    python -m benchmarks.planner_rates

Each is that of one plain operation on sizes which no measured configuration has. Times are seconds
of the process on the processor, so that a machine's other users count only as far as they slow down
the processor itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from statistics import median

import torch


def seconds_of(work: Callable[[], object], *, repeats: int = 3) -> float:
    """Median seconds on the processor, after one unmeasured time."""
    work()
    found = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return median(found)


def measure_rates() -> dict[str, float]:
    """Products in float32 with weights that are not in the processor's caches.

    A weight of 50 MB times 16 rows: nothing counts but its passing. 16 weights of 512 x 1280 times
    1024 rows: arithmetic and their passing.
    """
    few, large = torch.randn(16, 768), torch.randn(16 * 1024, 768)
    passing = large.numel() * 4 / seconds_of(lambda: few @ large.T)
    rows, weights = torch.randn(1024, 512), torch.randn(16, 1280, 512)
    out = torch.empty(1024, 1280)

    def multiply() -> None:
        for weight in weights:
            torch.mm(rows, weight.T, out=out)

    seconds = seconds_of(multiply) / 16
    num_bytes = weights[0].numel() * 4
    flops = 2 * 1024 * 512 * 1280 / max(seconds - num_bytes / passing, 0.2 * seconds)
    return {"bytes_per_second": passing, "flops": flops}


def main() -> None:
    torch.set_num_threads(1)
    print(json.dumps(measure_rates(), indent=1))


if __name__ == "__main__":
    main()
