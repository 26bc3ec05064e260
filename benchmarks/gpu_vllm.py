"""vLLM in the trainer's process: how long it takes to start, sleep, wake and take over weights,
what memory it leaves, whether its log-probs are the trainer's, and how fast it samples beside vLLM
alone.

    python -m benchmarks.gpu_vllm --out FILE.json [--model DIRECTORY] [--only alias alone]
        [--seconds 480] [--short] [--tiny]

Random weights of Qwen2.5-1.5B's exact dimensions in bfloat16, or the model in DIRECTORY. Each part
is a process of its own with a limit of its own; it writes what it has after every measurement, so
that one that fails or hangs loses nothing else. `--tiny`: a tiny model, also on a CPU, where
nothing really sleeps and memory is not told.

Sampling: random prompts of 64 tokens, no stop tokens, P x 1 completions of exactly T tokens.
`inside` is `LLM.generate` of the very same vLLM without log-probs, seeds and checks, taking turns
with ours; the part `alone` is vLLM by itself in a process without a trainer. `--short` leaves out
the longest completions, which take most of the time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.child_process import run_child
from benchmarks.gpu_vllm_parts import BIG, PARTS, SHORT, SMALL, Part, run_part
from vibelite.rollout.vllm_start import is_vllm_installed
from vibelite.run_dir import write_text_atomic
from vibelite.tables import format_table
from vibelite.telemetry.hardware import describe_hardware


def run_all(
    parts: Sequence[Part], arguments: argparse.Namespace, out: Path | None
) -> dict[str, dict[str, Any]]:
    """Name of a part -> its measurements; `out` is written after every part."""
    results: dict[str, dict[str, Any]] = {}
    begun = time.monotonic()
    for part in parts:
        left = arguments.seconds - (time.monotonic() - begun)
        print(f"\n## {part.name}, {left:.0f} s left", flush=True)
        if left <= 0:
            results[part.name] = {"failed": "no time was left"}
        else:
            results[part.name] = run_apart(part, min(left, part.seconds), arguments)
        if out is not None:
            write(out, results, arguments)
    return results


def run_apart(part: Part, seconds: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """The measurements of one part in a process of its own, also of one that did not end well."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "part.json"
        command = [sys.executable, "-m", "benchmarks.gpu_vllm", "--part", part.name]
        command += ["--out", str(path), *(["--model", arguments.model] if arguments.model else [])]
        command += [f"--{flag}" for flag in ("tiny", "short") if getattr(arguments, flag)]
        outcome = run_child(command, path, seconds=seconds, is_quiet=True)
    results = outcome.result or {}
    if outcome.failure:
        results["failed"] = outcome.failure
    for name, row in results.items():
        print(f"{name}: {json.dumps(row) if isinstance(row, dict) else row}", flush=True)
    return results


def write(out: Path, results: Mapping[str, Any], arguments: argparse.Namespace) -> None:
    import vllm  # pyright: ignore[reportMissingImports]

    report = {
        "parts": results,
        "model": arguments.model or ("tiny" if arguments.tiny else "random, Qwen2.5-1.5B's sizes"),
        "torch": torch.__version__,
        "vllm": vllm.__version__,
        "hardware": describe_hardware(),
    }
    write_text_atomic(out, json.dumps(report, indent=1) + "\n")


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """One line a part: seconds of a cycle, mismatch, tokens per second."""
    rows = []
    for name, part in results.items():
        cycle, apart = part.get("cycles", {}), part.get("mismatch", {})
        speeds = [
            f"{key.removeprefix('speed_')} {side.split('_')[0]} {max(rates):.0f}"
            for key, value in part.items()
            if key.startswith("speed_")
            for side, rates in value.items()
            if side.endswith("_tokens_per_second")
        ]
        failed = [
            key for key, value in part.items()
            if key == "failed" or (isinstance(value, dict) and "failed" in value)
        ]  # fmt: skip
        rows.append(
            [
                name,
                *(f"{cycle[key]:.3f}" if key in cycle else "" for key in CYCLE_COLUMNS),
                f"{apart['mismatch/k3']:.1e}" if "mismatch/k3" in apart else "",
                ", ".join(speeds),
                ", ".join(failed),
            ]
        )
    header = ["part", *CYCLE_COLUMNS.values(), "k3", "tokens/s", "failed"]
    return format_table(header, rows)


CYCLE_COLUMNS = {
    "sleep_seconds": "sleep s",
    "push_seconds": "push s",
    "check_seconds": "check s",
    "wake_seconds": "wake s",
    "total_seconds": "all s",
}


def has_failed(results: Mapping[str, Mapping[str, Any]]) -> bool:
    return any(
        name == "failed" or (isinstance(row, dict) and "failed" in row)
        for part in results.values()
        for name, row in part.items()
    )


def main() -> None:
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(description="vLLM in the trainer's process.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", help="a Hugging Face directory instead of random weights")
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--seconds", type=float, default=480.0, help="for everything together")
    parser.add_argument("--tiny", action="store_true", help="a tiny model, also on a CPU")
    parser.add_argument("--short", action="store_true", help="only the shortest timed completions")
    parser.add_argument("--part", choices=names, help="this one alone, in this process")
    arguments = parser.parse_args()
    if not is_vllm_installed():
        print("left out: vLLM is not installed")
        arguments.out.write_text(json.dumps({"left_out": "vLLM is not installed"}) + "\n")
        return
    parts = {part.name: part for part in PARTS}
    if arguments.part:
        # As the engine sets it; here already, so that nothing imported earlier decides otherwise.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        sizes = SMALL if arguments.tiny else SHORT if arguments.short else BIG
        part = parts[arguments.part]
        run_part(part, arguments.out, sizes, model=arguments.model, tiny=arguments.tiny)
        return
    results = run_all([parts[name] for name in arguments.only], arguments, arguments.out)
    print("\n" + table(results))
    sys.exit(has_failed(results))


if __name__ == "__main__":
    main()
