"""How many small programs a second the sandbox runs on two processors, in each of its tiers.

    python benchmarks/sandbox.py --rounds 7

Every program reads a list of numbers, prints an answer, and is checked. The tiers take turns with
each other and with two floors: the same fork server with limits only ("weak"), and a fresh
interpreter for each program without any confinement. On a machine that others use, too, the clock
says little: the CPU time of everything that a program caused, its fork server's part included, is
reported beside it, and how much of the two processors others took meanwhile.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import queue
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from vibelite.errors import SandboxError
from vibelite.rewards.sandbox import TIERS, Sandbox
from vibelite.rewards.sandbox_slot import Slot
from vibelite.tables import format_table

RESULT = Path(__file__).parent / "results" / "sandbox.json"
NUM_PROCESSORS = 2
PROGRAM = """
import sys
from collections import Counter
from heapq import nlargest


def solve(numbers, k):
    counts = Counter(numbers)
    return nlargest(k, counts, key=lambda number: (counts[number], number))


def main():
    n, k = map(int, sys.stdin.readline().split())
    numbers = list(map(int, sys.stdin.readline().split()))
    print(*solve(numbers, k))


if __name__ == "__main__":
    main()
"""


def make_case(seed: int) -> tuple[bytes, bytes]:
    """Standard input of PROGRAM and its right answer: the k most frequent numbers."""
    generator = random.Random(seed)
    numbers = [generator.randrange(50) for _ in range(200)]
    ranked = sorted(set(numbers), key=lambda number: (-numbers.count(number), -number))
    text = f"200 5\n{' '.join(map(str, numbers))}\n"
    return text.encode(), (" ".join(map(str, ranked[:5])) + "\n").encode()


def in_new_interpreter(stdin: bytes) -> bytes:
    command = [os.path.realpath(sys.executable), "-I", "-S", "-c", PROGRAM]
    return subprocess.run(command, input=stdin, capture_output=True, env={}, check=True).stdout


def run_round(run: Callable[[bytes], bytes], num_programs: int) -> float:
    """Seconds for `num_programs` programs, as many at once as there are processors."""
    cases = [make_case(seed) for seed in range(num_programs)]
    with ThreadPoolExecutor(NUM_PROCESSORS) as threads:
        started = time.perf_counter()
        outputs = list(threads.map(lambda case: run(case[0]), cases))
        seconds = time.perf_counter() - started
    assert outputs == [answer for _, answer in cases], "a program gave a wrong answer"
    return seconds


def cpu_seconds() -> float:
    """Of this process and of all descendants that have ended and been waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def wait_for_orphans() -> None:
    """Takes over the CPU time of those whose own parent has ended: this process adopts them."""
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def machine_cpu_seconds() -> float:
    """Of everything on the machine, whoever it belongs to."""
    user, nice, system, _, _, irq, softirq = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:8]
    )
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def measure(tier: str, num_programs: int) -> dict[str, float]:
    """One round in a sandbox of its own; starting and closing it counts as CPU time only."""
    before, machine_before, began = cpu_seconds(), machine_cpu_seconds(), time.perf_counter()
    if tier == "new interpreter":
        started = 0.0
        seconds = run_round(in_new_interpreter, num_programs)
    else:
        idle: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        for _ in range(NUM_PROCESSORS):
            idle.put(Slot(TIERS.get(tier, ())))

        def run(stdin: bytes) -> bytes:
            slot = idle.get()
            try:
                return slot.run(PROGRAM, stdin=stdin).stdout
            finally:
                idle.put(slot)

        # Both servers start with their first programs; with two at once, both are used.
        run_round(run, 2 * NUM_PROCESSORS)
        started = time.perf_counter() - began
        seconds = run_round(run, num_programs)
        for _ in range(NUM_PROCESSORS):
            idle.get().close()
    elapsed = time.perf_counter() - began
    wait_for_orphans()
    used = cpu_seconds() - before
    return {
        "programs_per_second": num_programs / seconds,
        "start_seconds": started,
        "cpu_seconds": used,
        "processors_taken_by_others": (machine_cpu_seconds() - machine_before - used) / elapsed,
    }


def available(tiers: list[str]) -> list[str]:
    """Those that this machine has."""
    found = []
    for tier in tiers:
        try:
            Sandbox(tiers=(tier,)).close()
        except SandboxError as error:
            print(f"{tier}: {error}")
            continue
        found.append(tier)
    return found


def summarize(rounds: list[dict[str, float]], few: list[dict[str, float]]) -> dict[str, Any]:
    """Medians and ranges; CPU time per program is the slope between long and short rounds."""
    rates = sorted(entry["programs_per_second"] for entry in rounds)
    more = rounds[0]["num_programs"] - few[0]["num_programs"]
    cpu_ms = [
        1000 * (long["cpu_seconds"] - short["cpu_seconds"]) / more
        for long, short in zip(rounds, few, strict=True)
    ]
    return {
        "programs_per_second": round(median(rates), 1),
        "programs_per_second_range": [round(rates[0], 1), round(rates[-1], 1)],
        "cpu_ms_per_program": round(median(cpu_ms), 2),
        "cpu_ms_per_program_range": [round(min(cpu_ms), 2), round(max(cpu_ms), 2)],
        "start_seconds": round(median(entry["start_seconds"] for entry in rounds), 2),
        "processors_taken_by_others": round(
            median(entry["processors_taken_by_others"] for entry in rounds), 2
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--programs", type=int, default=200, help="programs per round")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0, "PR_SET_CHILD_SUBREAPER"
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:NUM_PROCESSORS])
    contenders = [*available(["namespaces", "landlock", "seccomp"]), "weak", "new interpreter"]
    long: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    short: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for number in range(arguments.rounds):
        for name in contenders[number % len(contenders) :] + contenders[: number % len(contenders)]:
            for kept, count in ((long, arguments.programs), (short, arguments.programs // 10)):
                kept[name].append(measure(name, count) | {"num_programs": count})
    table = {name: summarize(long[name], short[name]) for name in contenders}
    result = {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "num_processors": NUM_PROCESSORS,
        "user": "root" if os.geteuid() == 0 else "ordinary",
        "rounds": arguments.rounds,
        "programs_per_round": arguments.programs,
        "tiers": table,
    }
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    header = ["programs_per_second", "programs_per_second_range", "cpu_ms_per_program"]
    cells = [[name, *(str(row[key]) for key in header)] for name, row in table.items()]
    print(format_table(["", *header], cells))


if __name__ == "__main__":
    main()
