"""Does the MaxEnt weight help? MGPO with several lambdas against GRPO (lambda 0), same budget,
several seeds.

    python benchmarks/mgpo_vs_grpo.py --seeds 3 --run-dir runs/mgpo-vs-grpo

Each seed is one ordinary run of the quickstart recipe in which the MGPO stage stands once per
lambda, every one starting from the same fused model. Resumable like any run. Writes a JSON with
every result and prints the table.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean

from ruamel.yaml import YAML

from vibelite.algorithms.pass_at_k import pass_at_k
from vibelite.algorithms.statistics import paired_difference
from vibelite.run_dir import read_jsonl

HERE = Path(__file__).parent
LAMBDAS = (0, 1, 2, 4)
NUM_BOOTSTRAP = 5000


def write_recipe(source: Path, target: Path, seed: int) -> None:
    """The recipe at `source` with one MGPO stage per lambda and no export."""
    yaml = YAML(typ="safe")
    recipe = yaml.load(source)
    stages = []
    for stage in recipe["stages"]:
        if stage["kind"] == "mgpo":
            for value in LAMBDAS:
                stages.append(
                    {**copy.deepcopy(stage), "name": f"mgpo-{value}", "maxent_lambda": value}
                )
        elif stage["kind"] != "export":
            stages.append(stage)
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target, "w") as file:
        yaml.dump({**recipe, "name": f"mgpo-vs-grpo-{seed}", "seed": seed, "stages": stages}, file)


def problem_scores(run_dir: Path, k: int) -> dict[str, dict[str, float]]:
    """Stage name -> problem -> Pass@k, from the evaluation's samples."""
    correct: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for row in read_jsonl(next(run_dir.glob("stages/*-evaluate/samples.jsonl"))):
        correct[row["key"]][row["problem_id"]].append(row["correct"])
    scores = {}
    for key, problems in correct.items():
        stage = next((name for name in key.split("-stages-")[-1].split("-checkpoints-")[:1]), key)
        scores[stage.partition("-")[2]] = {
            problem: pass_at_k(len(values), sum(values), k) for problem, values in problems.items()
        }
    return scores


def compare(run_dirs: list[Path], k: int) -> dict[str, dict]:
    """Mean over seeds of each lambda's Pass@k, and its paired difference to GRPO with a 95%
    interval.

    The pairs are (seed, problem): the same problem, from the same fused model, with the same random
    numbers.
    """
    by_seed = [problem_scores(run_dir, k) for run_dir in run_dirs]
    table = {}
    for value in LAMBDAS:
        name = f"mgpo-{value}"
        pairs = [
            (scores[name][problem], scores["mgpo-0"][problem])
            for scores in by_seed
            for problem in scores[name]
        ]
        mgpo, grpo = zip(*pairs, strict=True)
        mean, low, high = paired_difference(mgpo, grpo, num_bootstrap=NUM_BOOTSTRAP, seed=0)
        table[name] = {
            "per_seed": [fmean(scores[name].values()) for scores in by_seed],
            "difference_to_grpo": mean,
            "interval": [low, high],
        }
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--recipe", type=Path, default=HERE.parent / "recipes" / "quickstart.yaml")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "mgpo_vs_grpo.json")
    arguments = parser.parse_args()
    run_dirs = []
    for seed in range(arguments.seeds):
        recipe = arguments.run_dir / f"seed-{seed}.yaml"
        write_recipe(arguments.recipe, recipe, seed)
        run_dirs.append(arguments.run_dir / f"seed-{seed}")
        command = [
            sys.executable,
            "-m",
            "vibelite",
            "run",
            str(recipe),
            "--run-dir",
            str(run_dirs[-1]),
        ]
        subprocess.run(command, check=True)
    report = {
        "recipe": arguments.recipe.name,
        "seeds": arguments.seeds,
        "pass_at_1": compare(run_dirs, 1),
        "pass_at_8": compare(run_dirs, 8),
        "results": [
            json.loads((run_dir / "summary.json").read_text())["results"] for run_dir in run_dirs
        ],
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    print("| lambda | Pass@1 by seed | difference to GRPO, 95% | Pass@8 by seed | difference |")
    print("|---|---|---|---|---|")
    for name in report["pass_at_1"]:
        cells = [name.removeprefix("mgpo-")]
        for metric in ("pass_at_1", "pass_at_8"):
            row = report[metric][name]
            low, high = row["interval"]
            difference = f"{100 * row['difference_to_grpo']:+.1f}"
            interval = f"[{100 * low:+.1f}, {100 * high:+.1f}]"
            cells.append(", ".join(f"{100 * value:.1f}" for value in row["per_seed"]))
            cells.append("-" if name == "mgpo-0" else f"{difference} {interval}")
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
