"""Kills runs with SIGKILL at random moments, starts the same command again, and compares what comes
out with an undisturbed run, bit for bit, and the ledgers with the clock.

    python -m benchmarks.kill_resume recipes/quickstart.yaml --kills 50 --out FILE.json

The recipe runs once undisturbed; then in one directory after another, each killed about
`--kills-per-run` times, until there were `--kills`. A process is killed after a time drawn
uniformly; every third one, from then on, only once something is being written under a temporary
name (a model, a training state), and within the time that writing takes. Nobody touches the
directory in between. Prints a summary; exit code 1 when anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vibelite.telemetry.ledger import read_ledger, run_cost
from vibelite.telemetry.manifest import describe_hardware

RESULT_KEYS = ("stage", "benchmark", "pass_at_1", "pass_at_1_ci", "pass_at_k")
# Models and training states; what is written whole at once, such as status.json, is too quick.
WRITTEN_IN = (".", "stages/*/checkpoints", "stages/*/resume", "stages/*")
LOOK_SECONDS = 0.002
# A model and state of the quickstart take about this long to write and to sync.
WRITE_SECONDS = 0.08
MAX_LEDGER_ERROR = 0.01


@dataclass(frozen=True)
class Job:
    """One command, and where its output goes."""

    arguments: list[str]
    log: Path
    run_dir: Path


@dataclass
class Attempt:
    """One process: `seconds` by the clock, from its start until it was gone."""

    seconds: float
    killed: bool
    aimed: bool = False
    """Killed while something was being written, on purpose."""
    left: list[str] = field(default_factory=list)
    """Temporary names that the killed process left: it died while writing them."""
    last: str = ""
    """The last work that the ledger knew."""


def job_of(recipe: Path, run_dir: Path, overrides: Sequence[str]) -> Job:
    sets = [argument for override in overrides for argument in ("--set", override)]
    command = [sys.executable, "-m", "vibelite", "run", str(recipe), "--run-dir", str(run_dir)]
    return Job([*command, *sets], run_dir.with_suffix(".log"), run_dir)


def run_to_end(job: Job) -> Attempt:
    """Runs to the end; raises CalledProcessError on failure."""
    started = time.monotonic()
    with open(job.log, "a") as output:
        subprocess.run(job.arguments, check=True, stdout=output, stderr=subprocess.STDOUT)
    return Attempt(time.monotonic() - started, killed=False)


def run_and_kill(job: Job, draw: random.Random, longest: float, *, aimed: bool) -> Attempt:
    """Kills the run somewhere in its first `longest` seconds, or in a later write if `aimed`; it
    may end before.
    """
    after = draw.uniform(0, longest)
    before = temporaries(job.run_dir)
    started = time.monotonic()
    with open(job.log, "a") as output:
        process = subprocess.Popen(job.arguments, stdout=output, stderr=subprocess.STDOUT)
        try:
            process.wait(timeout=after)
        except subprocess.TimeoutExpired:
            if aimed:
                wait_for_write(process, job.run_dir)
                time.sleep(draw.uniform(0, WRITE_SECONDS))
        process.kill()  # does nothing to a process that has been waited for
        code = process.wait()
    attempt = Attempt(time.monotonic() - started, killed=code == -9, aimed=aimed)
    if code not in (0, -9):
        raise subprocess.CalledProcessError(code, job.arguments)
    if attempt.killed:
        attempt.left = sorted({name for name, _ in temporaries(job.run_dir) - before})
        entries = read_ledger(job.run_dir / "ledger")
        known = [entry for entry in entries if entry.what != "unrecorded"]
        attempt.last = f"{known[-1].stage} {known[-1].step or known[-1].what}" if known else ""
    return attempt


def wait_for_write(process: subprocess.Popen[bytes], run_dir: Path) -> None:
    """Returns when a model or a state begins to be written, or when the run has ended. What an
    earlier process left does not count.
    """
    before = temporaries(run_dir)
    while process.poll() is None and not temporaries(run_dir) - before:
        time.sleep(LOOK_SECONDS)


def temporaries(run_dir: Path) -> set[tuple[str, int]]:
    """Names of what is being written, or was when a process died, each with the moment that tells
    it from another of that name.
    """
    found = set()
    for path in {path for place in WRITTEN_IN for path in run_dir.glob(f"{place}/.*.tmp")}:
        with suppress(FileNotFoundError):  # it has just got its final name
            found.add((str(path.relative_to(run_dir)), path.stat().st_ctime_ns))
    return found


def killed_run(job: Job, draw: random.Random, longest: float, kills: int) -> list[Attempt]:
    """All attempts at one run, of which up to `kills` are killed; the last one ends."""
    attempts: list[Attempt] = []
    while len(attempts) < kills:
        aimed = len(attempts) % 3 == 2
        attempts.append(run_and_kill(job, draw, longest, aimed=aimed))
        if not attempts[-1].killed:
            return attempts
    return [*attempts, run_to_end(job)]


def outcome(run_dir: Path) -> dict[str, Any]:
    """What must not depend on interruptions: final weights, results, and every step's metrics
    except its speed.
    """
    results = json.loads((run_dir / "summary.json").read_text())["results"]
    steps = {}
    for path in sorted(run_dir.glob("stages/*/steps.jsonl")):
        steps[path.parent.name] = [
            (
                row["step"],
                {k: v for k, v in row["metrics"].items() if not k.endswith("_per_second")},
            )
            for row in map(json.loads, path.read_text().splitlines())
        ]
    weights = (run_dir / "export" / "model.safetensors").read_bytes()
    return {
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "results": [{key: row[key] for key in RESULT_KEYS} for row in results],
        "steps": steps,
    }


def describe(job: Job, attempts: Sequence[Attempt], whole: dict[str, Any]) -> dict[str, Any]:
    """One run against the undisturbed one and against the clock."""
    found = outcome(job.run_dir)
    wall = sum(attempt.seconds for attempt in attempts)
    paid, _ = run_cost(job.run_dir / "ledger")
    return {
        "equal": {key: found[key] == whole[key] for key in whole},
        "weights_sha256": found["weights_sha256"],
        "wall_seconds": round(wall, 3),
        "ledger_seconds": round(paid, 3),
        "ledger_error": round(paid / wall - 1, 5),
        "attempts": [
            {**vars(attempt), "seconds": round(attempt.seconds, 3)} for attempt in attempts
        ],
    }


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of all killed runs; the undisturbed one is first."""
    attempts = [attempt for run in runs[1:] for attempt in run["attempts"]]
    killed = [attempt for attempt in attempts if attempt["killed"]]
    wall = sum(run["wall_seconds"] for run in runs)
    return {
        "kills": len(killed),
        "kills_inside_a_write": sum(bool(attempt["left"]) for attempt in killed),
        "kills_before_any_work": sum(not attempt["last"] for attempt in killed),
        "all_equal": all(all(run["equal"].values()) for run in runs),
        "ledger_error": round(sum(run["ledger_seconds"] for run in runs) / wall - 1, 5),
        "largest_ledger_error": max((run["ledger_error"] for run in runs), key=abs),
    }


def boot_seconds(run_dir: Path) -> float:
    """What a start takes before any work."""
    return sum(
        entry.wall_nanoseconds for entry in read_ledger(run_dir / "ledger") if entry.what == "boot"
    ) / 1e9  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--kills-per-run", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="draws the moments")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    with TemporaryDirectory() as temporary:
        job = job_of(arguments.recipe, Path(temporary) / "whole", arguments.overrides)
        whole_attempt = run_to_end(job)
        whole = outcome(job.run_dir)
        runs = [describe(job, [whole_attempt], whole)]
        boot = boot_seconds(job.run_dir)
        num_kills = 0
        while num_kills < arguments.kills:
            kills = min(arguments.kills_per_run, arguments.kills - num_kills)
            # On average, so many kills are spread over the run and the boots in between.
            longest = 2 * (whole_attempt.seconds / arguments.kills_per_run + boot)
            run_dir = Path(temporary) / f"killed-{len(runs)}"
            job = job_of(arguments.recipe, run_dir, arguments.overrides)
            attempts = killed_run(job, draw, longest, kills)
            runs.append(describe(job, attempts, whole))
            num_kills += sum(attempt.killed for attempt in attempts)
            print(json.dumps(summary(runs)), file=sys.stderr, flush=True)
    found = summary(runs)
    print(json.dumps(found, indent=1))
    if arguments.out is not None:
        head = {"recipe": arguments.recipe.name, "overrides": arguments.overrides}
        head |= {"seed": arguments.seed, "hardware": describe_hardware(), "summary": found}
        arguments.out.write_text(json.dumps(head | {"runs": runs}, indent=1) + "\n")
    exact = abs(found["ledger_error"]) <= MAX_LEDGER_ERROR
    return 0 if found["all_equal"] and exact else 1


if __name__ == "__main__":
    sys.exit(main())
