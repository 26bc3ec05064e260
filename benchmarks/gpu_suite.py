"""Every measurement that needs a GPU, one after the other, in under 8 minutes: one table each, one
JSON.

    python -m benchmarks.gpu_suite --out gpu.json [--only kernel mgpo] [--seconds 480] [--tiny]

Each measurement is a module of its own and runs in a process of its own, so that none starts in
memory that another has left in pieces. What is printed and measured is passed on and written down
at once, each measurement's rows also in a file of their own beside `--out`: a suite that is killed
leaves all that it had. A measurement that fails, or does not end in the time that is left, is
reported with the end of its output and the rows it had, and the suite ends with code 1. `--tiny`
tries everything on a small model and on whatever processor there is.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.child_process import run_child


@dataclass(frozen=True, slots=True)
class Measurement:
    """A module of `benchmarks` that takes `--out`, what to give it, also for a small trial, and the
    seconds it may take on an H100.
    """

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    tiny_arguments: tuple[str, ...] = ("--tiny",)
    seconds: float = 120.0


# The ones that a wider change touches first: what is cut for lack of time is at the end.
MEASUREMENTS = (
    Measurement("mgpo", "benchmarks.gpu_mgpo", seconds=150.0),
    Measurement("lora", "benchmarks.gpu_lora", seconds=90.0),
    Measurement(
        "kernel",
        "benchmarks.linear_logprobs",
        ("--shapes", "qwen2.5-1.5b", "--tokens", "8192", "32768", "--reps", "5"),
        ("--shapes", "smollm2", "--tokens", "64", "--reps", "1"),
        150.0,
    ),
    Measurement("optim", "benchmarks.gpu_optim"),
    Measurement("activations", "benchmarks.gpu_activations"),
    Measurement(
        "vllm", "benchmarks.gpu_vllm", ("--seconds", "400"), ("--tiny", "--only", "copy-2"), 420.0
    ),
)


def run_all(
    measurements: Sequence[Measurement],
    *,
    seconds: float,
    out: Path,
    tiny: bool = False,
    python: str = sys.executable,
) -> dict[str, dict[str, Any]]:
    """Name -> {seconds, result, failed}, without what there is none of; passes on what the modules
    print, and writes `out` after every one.
    """
    report: dict[str, dict[str, Any]] = {}
    start = time.monotonic()
    for one in measurements:
        left = seconds - (time.monotonic() - start)
        print(f"\n## {one.name} ({one.module}), {left:.0f} s left", flush=True)
        if left <= 0:
            report[one.name] = {"seconds": 0.0, "failed": "no time was left"}
        else:
            arguments = one.tiny_arguments if tiny else one.arguments
            part = out.with_name(f"{out.stem}-{one.name}.json")
            command = [python, "-m", one.module, *arguments, "--out", str(part)]
            outcome = run_child(command, part, seconds=min(left, one.seconds))
            report[one.name] = {"seconds": outcome.seconds}
            if outcome.result is not None:
                report[one.name]["result"] = outcome.result
            if outcome.failure:
                report[one.name]["failed"] = outcome.failure
        if "failed" in report[one.name]:
            print("FAILED:", report[one.name]["failed"].splitlines()[0], flush=True)
        out.write_text(json.dumps(report, indent=1) + "\n")
    return report


def main() -> None:
    names = [one.name for one in MEASUREMENTS]
    parser = argparse.ArgumentParser(description="Every measurement that needs a GPU.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--seconds", type=float, default=480.0, help="for everything together")
    parser.add_argument("--tiny", action="store_true", help="small models, any processor")
    arguments = parser.parse_args()
    chosen = [one for one in MEASUREMENTS if one.name in arguments.only]
    out = arguments.out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    report = run_all(chosen, seconds=arguments.seconds, out=out, tiny=arguments.tiny)
    print("\n" + "\n".join(f"{name:<12} {row['seconds']:6.1f} s  "
          + ("FAILED" if "failed" in row else "done") for name, row in report.items()))  # fmt: skip
    sys.exit(any("failed" in row for row in report.values()))


if __name__ == "__main__":
    main()
