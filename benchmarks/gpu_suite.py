"""Every measurement that needs a GPU, one after the other, in less than 8 minutes: one table, one
JSON.

    python -m benchmarks.gpu_suite --out gpu.json [--only kernel mgpo] [--seconds 450] [--tiny]

Each measurement is a module of its own and runs in a process of its own, so that none starts in
memory that another has left in pieces. Each has a share of the time, and what one leaves goes to
the next; one whose time is over is ended, and the table says so. So all of them together take
`--seconds`, and at most a few more until a process that was told to end has ended. Here some run
fewer cases than by themselves (`python -m` and the module's name).

What is printed and measured is passed on and written down at once, each measurement's rows also in
a file of their own beside `--out`: a suite that is killed leaves all that it had. It ends with code
1 where a measurement failed or was cut. `--tiny` tries everything on a small model and on whatever
processor there is.
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
from benchmarks.gpu_suite_table import suite_table
from vibelite.run_dir import write_text_atomic


@dataclass(frozen=True, slots=True)
class Measurement:
    """A module of `benchmarks` that takes `--out`, its share of the time in seconds, and what to
    give it, also for a small trial.
    """

    name: str
    module: str
    share: float
    arguments: tuple[str, ...] = ()
    tiny_arguments: tuple[str, ...] = ("--tiny",)


def vllm(name: str, share: float, part: str, *arguments: str) -> Measurement:
    module = "benchmarks.gpu_vllm_parts"
    tiny = ("--part", "copy", "--tiny")
    return Measurement(name, module, share, ("--part", part, *arguments), tiny)


# In the order of what matters most to a user. Shares are about what each took on an H100.
MEASUREMENTS = (
    Measurement("mgpo", "benchmarks.gpu_mgpo", 110.0),
    vllm("vllm", 105.0, "alias", "--short"),
    Measurement("optim", "benchmarks.gpu_optim", 50.0),
    Measurement("activations", "benchmarks.gpu_activations", 35.0, ("--tokens", "16384")),
    Measurement("lora", "benchmarks.gpu_lora", 40.0, ("--tokens", "16384")),
    Measurement(
        "kernel", "benchmarks.linear_logprobs", 60.0,
        ("--shapes", "qwen2.5-1.5b", "--tokens", "8192", "--reps", "3",
         "--only", "vibelite", "torch eager", "trl", "liger scaled"),
        ("--shapes", "smollm2", "--tokens", "64", "--reps", "1"),
    ),
)  # fmt: skip
# Only where they are named.
ON_REQUEST = (
    vllm("vllm-alias", 180.0, "alias"),
    vllm("vllm-alone", 150.0, "alone"),
    vllm("vllm-copy", 100.0, "copy"),
)


def time_limit(shares: Sequence[float], index: int, *, seconds: float, left: float) -> float:
    """Seconds that part `index` may take: what is `left` of `seconds`, but for the shares of those
    after it. Shares are weights: together they are the whole. At most 0 where nothing is left.
    """
    return left - seconds * sum(shares[index + 1 :]) / sum(shares)


def run_all(
    measurements: Sequence[Measurement], *, seconds: float, out: Path, tiny: bool = False
) -> dict[str, dict[str, Any]]:
    """Name -> {state, seconds, limit, result, failed}, the last two where there are any; passes on
    what the modules print, and writes `out` after every one.
    """
    report: dict[str, dict[str, Any]] = {}
    shares = [one.share for one in measurements]
    start = time.monotonic()
    for index, one in enumerate(measurements):
        left = seconds - (time.monotonic() - start)
        limit = time_limit(shares, index, seconds=seconds, left=left)
        print(f"\n## {one.name} ({one.module}), at most {limit:.0f} s", flush=True)
        report[one.name] = run_one(one, limit, out, tiny)
        if "failed" in report[one.name]:
            print("FAILED:", report[one.name]["failed"].splitlines()[0], flush=True)
        write_text_atomic(out, json.dumps(report, indent=1) + "\n")
    return report


def run_one(one: Measurement, limit: float, out: Path, tiny: bool) -> dict[str, Any]:
    """What a measurement left, and how it ended: done, left out, cut or failed."""
    row: dict[str, Any] = {"state": "cut", "seconds": 0.0, "limit": round(limit, 1)}
    if limit <= 0:
        return row | {"failed": "no time was left"}
    part = out.with_name(f"{out.stem}-{one.name}.json")
    arguments = one.tiny_arguments if tiny else one.arguments
    command = [sys.executable, "-m", one.module, *arguments, "--out", str(part)]
    outcome = run_child(command, part, seconds=limit)
    row["seconds"] = outcome.seconds
    if outcome.result is not None:
        row["result"] = outcome.result
    if outcome.failure:
        return row | {"state": "cut" if outcome.is_cut else "failed", "failed": outcome.failure}
    return row | {"state": "left out" if is_left_out(outcome.result) else "done"}


def is_left_out(result: Any) -> bool:
    """Whether nothing was measured, for lack of a package or of a GPU."""
    if not isinstance(result, dict):
        return False
    rows = result.get("rows", [])
    return "left_out" in result or (bool(rows) and all("left_out" in row for row in rows))


def main() -> None:
    known = {one.name: one for one in (*MEASUREMENTS, *ON_REQUEST)}
    parser = argparse.ArgumentParser(description="Every measurement that needs a GPU.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=list(known))
    parser.add_argument("--seconds", type=float, default=450.0, help="for everything together")
    parser.add_argument("--tiny", action="store_true", help="small models, any processor")
    arguments = parser.parse_args()
    chosen = [known[name] for name in arguments.only] if arguments.only else MEASUREMENTS
    out = arguments.out.resolve()
    report = run_all(chosen, seconds=arguments.seconds, out=out, tiny=arguments.tiny)
    print("\n" + suite_table(report))
    sys.exit(any(row["state"] in ("cut", "failed") for row in report.values()))


if __name__ == "__main__":
    main()
