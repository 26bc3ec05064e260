"""1 -> n GPUs: tokens a second of SFT, rollout and MGPO, what ranks wait and send; the same loss
curve as one GPU; one killed rank, and its run going on with another number of GPUs.

    python -m benchmarks.scaling --out FILE.json [--gpus 1 2 4] [--seconds 460] [--tiny]

Speeds: random weights of Qwen2.5-1.5B's exact dimensions and the same work for every number of
GPUs (`scaling_rank.py`); curves and kills: tests/distributed/ranks.yaml through `vibelite run`. The
file is written anew after every result, so a script that is stopped leaves what it had. Without
GPUs, or with `--tiny`, the speeds are those of a tiny model; `--gpus` are then processes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.child_process import run_child
from benchmarks.rank_runs import RECIPE, kill_and_resume, run_curve
from benchmarks.row_report import row_saver
from vibelite.tables import format_table

START = (
    "from vibelite.ranks.launch import run_ranks; import sys; sys.exit(run_ranks({n}, {command!r}))"
)
Row = dict[str, Any]


def speeds(num_gpus: int, work: str, directory: Path, seconds: float) -> list[Row]:
    """The rows of one number of GPUs; a failure is a row too."""
    out = directory / f"speeds-{num_gpus}.json"
    module = [sys.executable, "-m", "benchmarks.scaling_rank", "--work", work, "--out", str(out)]
    command = [sys.executable, "-c", START.format(n=num_gpus, command=module)]
    if num_gpus == 1:
        command = module
    outcome = run_child(command, out, seconds=max(10.0, seconds), is_quiet=True)
    rows: list[Row] = outcome.result["rows"] if outcome.result else []
    if outcome.failure:
        failed = {"part": "failed", "num_gpus": num_gpus, "seconds": outcome.seconds}
        rows.append(failed | {"text": outcome.failure})
    print(f"speeds on {num_gpus}: {outcome.seconds:.0f} s", flush=True)
    return rows


def print_speeds(rows: list[Row]) -> None:
    """Tokens a second, and how many times one GPU's."""
    measured = [row for row in rows if "tokens_per_second" in row]
    alone = {row["part"]: row for row in measured if row["num_gpus"] == 1}
    table = []
    for row in measured:
        one = alone.get(row["part"])
        times = row["tokens_per_second"] / one["tokens_per_second"] if one else float("nan")
        table.append([
            row["part"], str(row["num_gpus"]), f"{row['seconds']:.3f}",
            f"{row['tokens_per_second']:.0f}", f"{times:.2f}", f"{100 * row['wait_share']:.1f}",
        ])  # fmt: skip
        if "rollout_seconds" in row:
            speed = row["rollout_tokens_per_second"]
            times = speed / one["rollout_tokens_per_second"] if one else float("nan")
            cells = ["- its rollout", str(row["num_gpus"]), f"{row['rollout_seconds']:.3f}"]
            table.append([*cells, f"{speed:.0f}", f"{times:.2f}", ""])
    header = ["part", "GPUs", "s/step", "tokens/s", "x one", "wait %"]
    print(format_table(header, table))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seconds", type=float, default=460.0)
    parser.add_argument("--kills", type=int, default=1)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.seconds

    from vibelite.ranks.join import num_devices

    devices = num_devices()
    work = "tiny" if arguments.tiny or not devices else "qwen2.5-1.5b"
    counts = [n for n in arguments.gpus if n <= (devices or os.cpu_count() or 1) or not devices]
    save, rows = row_saver(arguments.out), []

    def add(name: str, measure: Callable[[], list[Row]]) -> None:
        left = deadline - time.monotonic()
        if left < 15:
            rows.append({"part": name, "left_out": "no time"})
        else:
            rows.extend(measure())
        save(rows)

    with TemporaryDirectory(prefix="vibelite-scaling-") as temporary:
        directory = Path(temporary)
        most, other = counts[-1], counts[-2] if len(counts) > 1 else counts[-1]
        for n in (counts[0], most):
            add("curve", lambda n=n: [run_curve(n, directory / f"curve-{n}")])
        for n in counts:
            left = deadline - time.monotonic()
            add("speeds", lambda n=n, left=left: speeds(n, work, directory, left - 30))
        for number in range(arguments.kills if most > 1 else 0):
            run_dir = directory / f"kill-{number}"
            curve = directory / f"curve-{most}"
            measure = partial(kill_and_resume, most, other, run_dir, curve, seed=number)
            add("kill", lambda measure=measure: [measure()])
    print_speeds(rows)
    for row in rows:
        if row["part"] not in ("sft", "mgpo update", "mgpo step"):
            print(json.dumps(row)[:1200])
    print(f"recipe of curves and kills: {RECIPE}")
    return int(any("failed" in (row["part"], row.get("status")) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
