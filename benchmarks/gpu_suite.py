"""Every measurement that needs a GPU, one after the other, in under 8 minutes: one table each, one
JSON.

    python -m benchmarks.gpu_suite --out gpu.json [--only kernel mgpo] [--seconds 480]

Each measurement is a module of its own and runs in a process of its own, so that none starts in
memory that another has left in pieces. One that fails, or does not end in the time that is left, is
reported with the end of its output, and the suite ends with code 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LAST_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class Measurement:
    """A module of `benchmarks` that takes `--out`, and the seconds it may take on an H100."""

    name: str
    module: str
    arguments: tuple[str, ...] = ()
    seconds: float = 120.0


MEASUREMENTS = (
    Measurement(
        "kernel",
        "benchmarks.linear_logprobs",
        ("--shapes", "qwen2.5-1.5b", "--tokens", "8192", "32768", "--reps", "5"),
        150.0,
    ),
    Measurement("mgpo", "benchmarks.gpu_mgpo", (), 150.0),
    Measurement("optim", "benchmarks.gpu_optim"),
    Measurement("activations", "benchmarks.gpu_activations"),
    Measurement("lora", "benchmarks.gpu_lora", (), 60.0),
)


def run_all(
    measurements: Sequence[Measurement], *, seconds: float, python: str = sys.executable
) -> dict[str, dict[str, Any]]:
    """Name -> {seconds, result} or {seconds, failed}; prints every module's own table."""
    report: dict[str, dict[str, Any]] = {}
    start = time.monotonic()
    for one in measurements:
        left = seconds - (time.monotonic() - start)
        print(f"\n## {one.name} ({one.module}), {left:.0f} s left", flush=True)
        if left <= 0:
            report[one.name] = {"seconds": 0.0, "failed": "no time was left"}
            continue
        report[one.name] = run_one(one, min(left, one.seconds), python)
        if "failed" in report[one.name]:
            print("FAILED:", report[one.name]["failed"], flush=True)
    return report


def run_one(measurement: Measurement, seconds: float, python: str) -> dict[str, Any]:
    """One measurement in a process of its own, which is killed when its time is up."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        out, log = Path(scratch) / "out.json", Path(scratch) / "log"
        command = [python, "-m", measurement.module, *measurement.arguments, "--out", str(out)]
        with log.open("w") as stream:
            try:
                code = subprocess.run(
                    command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, timeout=seconds
                ).returncode
                failure = f"exit code {code}" if code else "" if out.exists() else "no result"
            except subprocess.TimeoutExpired:
                failure = f"not done after {seconds:.0f} s"
        printed = log.read_text(errors="replace")
        taken = {"seconds": round(time.monotonic() - start, 1)}
        if failure:
            return taken | {"failed": f"{failure}\n{printed[-LAST_CHARACTERS:]}"}
        print(printed, flush=True)
        return taken | {"result": json.loads(out.read_text())}


def main() -> None:
    names = [one.name for one in MEASUREMENTS]
    parser = argparse.ArgumentParser(description="Every measurement that needs a GPU.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--seconds", type=float, default=480.0, help="for everything together")
    arguments = parser.parse_args()
    chosen = [one for one in MEASUREMENTS if one.name in arguments.only]
    report = run_all(chosen, seconds=arguments.seconds)
    arguments.out.write_text(json.dumps(report, indent=1) + "\n")
    print("\n" + "\n".join(f"{name:<12} {row['seconds']:6.1f} s  "
          + ("FAILED" if "failed" in row else "done") for name, row in report.items()))  # fmt: skip
    sys.exit(any("failed" in row for row in report.values()))


if __name__ == "__main__":
    main()
