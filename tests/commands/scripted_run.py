"""Stands for `vibelite run` in the tests of sweeps: writes what a run leaves, as the setting
`maxent_lambda` says, a step every SECONDS_PER_STEP. It goes on where it was stopped.
"""

import json
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from vibelite.recipe.load import dump_resolved, load_recipe
from vibelite.telemetry.meter import Meter
from vibelite.telemetry.spending import Spending
from vibelite.telemetry.stop import StopRules
from vibelite.types import StepRecord


def main() -> None:
    settings = [sys.argv[i + 1] for i, word in enumerate(sys.argv) if word == "--set"]
    run_dir = Path(sys.argv[sys.argv.index("--run-dir") + 1])
    recipe = load_recipe(Path(sys.argv[1]), settings)
    strength: Any = recipe.stage_named("mgpo")
    strength, num_steps = strength.maxent_lambda, strength.num_steps
    if strength == 9:
        sys.exit("this setting fails")
    stages = run_dir / "stages"
    steps = stages / "00-mgpo" / "steps.jsonl"
    steps.parent.mkdir(parents=True, exist_ok=True)
    text = dump_resolved(recipe)
    assert YAML(typ="safe").load(text)
    (run_dir / "recipe.resolved.yaml").write_text(text)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    with open(run_dir / "starts", "a") as file:
        file.write(f"{recipe.budget.usd}\n")
    spending, now = Spending(recipe.cost, run_dir / "ledger"), [0]
    stop = StopRules(recipe.budget, spending)
    meter = Meter(clock=lambda: now[0])
    done = len(steps.read_text().splitlines()) if steps.exists() else 0
    for step in range(done + 1, num_steps + 1):
        with meter.span("train"):
            time.sleep(float(os.environ["SECONDS_PER_STEP"]))
            now[0] += 5 * 10**9  # every step costs $5, however busy the machine is
        usd = spending.record(meter.lap(), stage="mgpo", step=step)
        line = StepRecord(
            "mgpo", step, {"reward/mean": step * strength}, {"train": 0.05}, {}, {"rss": 1}
        )
        line = asdict(line) | {"usd": usd and float(usd)}
        with open(steps, "a") as file:
            file.write(json.dumps(line) + "\n")
        if reason := stop.reason_to_stop():
            print(reason)
            sys.exit(reason.exit_code)
    result = {
        "stage": "mgpo", "benchmark": "test", "num_problems": 1, "num_samples": 1,
        "pass_at_1": strength / 10, "pass_at_1_ci": [0, 1], "pass_at_k": {}, "usd": None,
        "seconds": 1.0, "subdomains": {}, "truncated": 0.0, "mean_tokens": 1.0,
    }  # fmt: skip
    evaluated = stages / "01-evaluate"
    evaluated.mkdir(exist_ok=True)
    (evaluated / "results.json").write_text(json.dumps([result]))
    sample = {"key": "test--mgpo", "problem_id": "1", "correct": strength > 3}
    sample |= {"prompt": "1 + 1", "completion": "2", "reward": 1.0, "subdomain": "all"}
    (evaluated / "samples.jsonl").write_text(json.dumps(sample) + "\n")
    (evaluated / "status.json").write_text('{"models": {}}')


main()
