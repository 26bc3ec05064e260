"""Runs of tests/distributed/ranks.yaml on several processes: their loss curves, and what happens
when one is killed.

    python -m benchmarks.rank_runs --kills 10 --gpus 2 --resume-on 1 4 --out FILE.json
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from safetensors.torch import load_file

from benchmarks.row_report import row_saver
from vibelite.run_dir import read_jsonl

RECIPE = Path(__file__).parent.parent / "tests" / "distributed" / "ranks.yaml"
STAGES = {"sft": "sft/loss", "mgpo": "policy/loss"}
NUM_STEPS = 14
"""Of both stages."""
LONGEST_SECONDS = 240.0


def command_of(num_gpus: int, run_dir: Path, sharding: str = "optimizer") -> list[str]:
    run = [sys.executable, "-m", "vibelite", "run", str(RECIPE), "--run-dir", str(run_dir)]
    return [*run, "--set", f"num_gpus={num_gpus}", "--set", f"parallel.sharding={sharding}"]


def run_curve(num_gpus: int, run_dir: Path, sharding: str = "optimizer") -> dict[str, Any]:
    """A whole run: its losses, and how far they and the weights are from those of one GPU, where
    that run is beside this one.
    """
    started = time.monotonic()
    done = subprocess.run(
        command_of(num_gpus, run_dir, sharding),
        capture_output=True,
        text=True,
        timeout=LONGEST_SECONDS,
    )
    row: dict[str, Any] = {"part": "curve", "num_gpus": num_gpus}
    row["seconds"] = time.monotonic() - started
    if done.returncode:
        return row | {"status": "failed", "text": (done.stdout + done.stderr)[-1500:]}
    row["losses"] = losses(run_dir)
    alone = run_dir.with_name("curve-1")
    if num_gpus > 1 and (alone / "export").exists():
        row |= difference(run_dir, alone)
    return row


def losses(run_dir: Path) -> dict[str, list[float]]:
    return {
        stage: [
            row["metrics"].get(metric, float("nan"))
            for path in run_dir.glob(f"stages/*-{stage}/steps.jsonl")
            for row in read_jsonl(path)
        ]
        for stage, metric in STAGES.items()
    }


def difference(run_dir: Path, other: Path) -> dict[str, float]:
    """The largest difference of a loss and of a weight between two runs."""
    ours, theirs = losses(run_dir), losses(other)
    weights = load_file(run_dir / "export" / "model.safetensors")
    others = load_file(other / "export" / "model.safetensors")
    return {
        "loss_difference": max(
            abs(a - b) for name in ours for a, b in zip(ours[name], theirs[name], strict=True)
        ),
        "weight_difference": max(
            float((weights[name] - others[name]).abs().max()) for name in weights
        ),
    }


def ranks_of(launcher: subprocess.Popen[str]) -> dict[int, int]:
    """Process ids of the ranks by their number."""
    found = {}
    for child in psutil.Process(launcher.pid).children():
        with suppress(psutil.Error):
            if "RANK" in (environment := child.environ()):
                found[int(environment["RANK"])] = child.pid
    return found


def kill_and_resume(
    num_gpus: int,
    resume_on: int,
    run_dir: Path,
    reference: Path,
    *,
    seed: int,
    keep: Path | None = None,
    shardings: tuple[str, str] = ("optimizer", "optimizer"),
) -> dict[str, Any]:
    """Kills a random rank after a random number of steps, waits for the end of all, and goes on
    with another number of processes to the end. What was killed is copied to `keep`.
    `shardings`: before and after.
    """
    draw = random.Random(seed)
    rank, after = draw.randrange(num_gpus), draw.randrange(NUM_STEPS - 1)
    pause = draw.uniform(0, 0.3)
    row: dict[str, Any] = {"part": "kill", "num_gpus": num_gpus, "resume_on": resume_on}
    row |= {"rank": rank, "after_steps": after}
    log = run_dir.with_suffix(".log")
    slowed = os.environ | {"REWARD_SECONDS": "0.3"}  # a step takes longer than `pause`
    with open(log, "w") as output:
        process = subprocess.Popen(
            command_of(num_gpus, run_dir, shardings[0]),
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            env=slowed,
        )
        started = time.monotonic()
        while steps_of(run_dir) < after or len(ranks_of(process)) < num_gpus:
            if process.poll() is not None or time.monotonic() - started > LONGEST_SECONDS:
                process.terminate()
                return row | {"status": "failed", "text": log.read_text()[-1500:]}
            time.sleep(0.02)
        time.sleep(pause)
        pids = ranks_of(process)
        killed = time.monotonic()
        if rank in pids:
            os.kill(pids[rank], signal.SIGKILL)
        process.wait(timeout=LONGEST_SECONDS)
    row["seconds_to_end"] = time.monotonic() - killed
    row["message"] = log.read_text().strip().splitlines()[-1][:300]
    row["names_rank"] = f"rank {rank}" in row["message"] and "SIGKILL" in row["message"]
    row["left_running"] = [pid for pid in pids.values() if is_running(pid)]
    if keep is not None:
        shutil.copytree(run_dir, keep)
    resumed = run_curve(resume_on, run_dir, shardings[1])
    if resumed.get("status") == "failed":
        return row | {"status": "failed", "text": resumed["text"]}
    row |= difference(run_dir, reference) if (reference / "export").exists() else {}
    is_good = row["names_rank"] and row["seconds_to_end"] < 30 and not row["left_running"]
    return row | {"status": "done" if is_good else "failed"}


def is_running(pid: int) -> bool:
    with suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def steps_of(run_dir: Path) -> int:
    return sum(sum(1 for _ in read_jsonl(path)) for path in run_dir.glob("stages/*/steps.jsonl"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--resume-on", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--sharding", choices=["optimizer", "full"], default="optimizer")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    save, rows = row_saver(arguments.out), []
    with TemporaryDirectory(prefix="vibelite-ranks-") as temporary:
        reference = Path(temporary) / "curve-1"
        rows.append(run_curve(1, reference))
        for number in range(arguments.kills):
            resume_on = arguments.resume_on[number % len(arguments.resume_on)]
            run_dir = Path(temporary) / f"kill-{number}"
            row = kill_and_resume(
                arguments.gpus,
                resume_on,
                run_dir,
                reference,
                seed=number,
                shardings=(arguments.sharding, arguments.sharding),
            )
            rows.append(row)
            print(row, flush=True)
            save(rows)
    return int(any(row.get("status") == "failed" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
