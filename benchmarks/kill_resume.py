"""Kills a run with SIGKILL at random moments, reruns the same command, and compares the final
weights bit for bit.

    python benchmarks/kill_resume.py recipes/quickstart.yaml --kills 3

The recipe runs once undisturbed, which also gives its duration; then again in another directory,
killed `--kills` times at moments drawn uniformly over that duration. Prints one JSON object; exit
code 1 when anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from vibelite.telemetry.entries import run_cost

RESULT_KEYS = ("stage", "benchmark", "pass_at_1", "pass_at_1_ci", "pass_at_k")


def command(recipe: Path, run_dir: Path, overrides: list[str]) -> list[str]:
    """The command line of one attempt."""
    sets = [argument for override in overrides for argument in ("--set", override)]
    return [sys.executable, "-m", "vibelite", "run", str(recipe), "--run-dir", str(run_dir), *sets]


def run_to_end(arguments: list[str], log: Path) -> None:
    """Runs to the end; raises CalledProcessError on failure."""
    with open(log, "a") as output:
        subprocess.run(arguments, check=True, stdout=output, stderr=subprocess.STDOUT)


def run_and_kill(arguments: list[str], after_seconds: float, log: Path) -> bool:
    """Starts the run and kills it after `after_seconds`; False if it had ended before."""
    with open(log, "a") as output:
        process = subprocess.Popen(arguments, stdout=output, stderr=subprocess.STDOUT)
        try:
            process.wait(timeout=after_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return True
    return False


def outcome(run_dir: Path) -> dict:
    """What must not depend on interruptions: final weights, results, and every step's metrics."""
    results = json.loads((run_dir / "summary.json").read_text())["results"]
    steps = {}
    for path in sorted(run_dir.glob("stages/*/steps.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        steps[path.parent.name] = [(row["step"], row["metrics"]) for row in rows]
    weights = (run_dir / "export" / "model.safetensors").read_bytes()
    return {
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "results": [{key: row[key] for key in RESULT_KEYS} for row in results],
        "steps": steps,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="draws the moments")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument(
        "--work-dir",
        type=Path,
        help="keeps the two runs, and takes up a finished one; otherwise a temporary directory",
    )
    arguments = parser.parse_args()
    with TemporaryDirectory() as temporary:
        work_dir = arguments.work_dir or Path(temporary)
        work_dir.mkdir(parents=True, exist_ok=True)
        log = work_dir / "log.txt"
        whole, killed = work_dir / "whole", work_dir / "killed"
        run_to_end(command(arguments.recipe, whole, arguments.overrides), log)
        seconds, _ = run_cost(whole / "ledger")
        draw = random.Random(arguments.seed)
        moments = sorted(draw.uniform(0, seconds) for _ in range(arguments.kills))
        attempt = command(arguments.recipe, killed, arguments.overrides)
        previous, kills = 0.0, 0
        for moment in moments:
            kills += run_and_kill(attempt, moment - previous, log)
            previous = moment
        run_to_end(attempt, log)
        first, second = outcome(whole), outcome(killed)
    report = {
        "recipe": arguments.recipe.name,
        "uninterrupted_seconds": round(seconds, 1),
        "killed_after_seconds": [round(moment, 1) for moment in moments],
        "kills": kills,
        "weights_sha256": [first["weights_sha256"], second["weights_sha256"]],
        "equal": {key: first[key] == second[key] for key in first},
    }
    print(json.dumps(report, indent=1))
    return 0 if all(report["equal"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
