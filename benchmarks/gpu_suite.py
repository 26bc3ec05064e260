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
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parent.parent
LAST_CHARACTERS = 2000


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
            report[one.name] = run_one(command, part, min(left, one.seconds))
        if "failed" in report[one.name]:
            print("FAILED:", report[one.name]["failed"].splitlines()[0], flush=True)
        out.write_text(json.dumps(report, indent=1) + "\n")
    return report


def run_one(command: Sequence[str], out: Path, seconds: float) -> dict[str, Any]:
    """One measurement in a process of its own, which is killed when its time is up."""
    start = time.monotonic()
    out.unlink(missing_ok=True)  # an earlier run's
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1"}, errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    printed: list[str] = []
    reader = threading.Thread(target=pass_on, args=(process.stdout, printed))
    reader.start()
    try:
        code = process.wait(seconds)
        failure = f"exit code {code}" if code else "" if out.exists() else "no result"
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        failure = f"not done after {seconds:.0f} s"
    reader.join(timeout=5.0)  # longer only where a process that outlives its parent holds the pipe
    row: dict[str, Any] = {"seconds": round(time.monotonic() - start, 1)}
    if out.exists():
        row["result"] = json.loads(out.read_text())
    if failure:
        row["failed"] = f"{failure}\n{''.join(printed)[-LAST_CHARACTERS:]}"
    return row


def pass_on(stream: IO[str], printed: list[str]) -> None:
    """Prints and keeps every line."""
    for line in stream:
        print(line, end="", flush=True)
        printed.append(line)


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
