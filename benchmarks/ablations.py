"""What each part of the method gives, at an equal budget: probing, fusion, the maxent weight, the
entropy bonus, the loss average, Long2Short.

    python -m benchmarks.ablations --task quickstart --seeds 0 1 2 3 4 --run-dir runs/ablations
    python -m benchmarks.ablations --task smollm2 --seeds 0 1 --run-dir runs/ablations-smollm2
    python -m benchmarks.ablations --task qwen2p5 --seeds 0 --run-dir /tmp/ablations \
        --output seed-0.json --set model.path=DIRECTORY

For each seed the recipe's own supervised fine-tuning, probing and fusion run once. Every variant is
then an ordinary run of a recipe with one MGPO stage and an evaluation, written beside it: the same
number of steps, the same problems in the same order, the same seeds. What a variant changes is in
`ablation_runs.VARIANTS`; all else is the recipe's. Rows go into the output after every variant, and
a variant whose row is there is not run again. Beside the output stands a .md with its tables, which
`benchmarks.ablation_table` makes.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.ablation_runs import (
    FULL,
    VARIANTS,
    Ablation,
    Task,
    evaluation_of,
    run_shared,
    run_variant,
)
from benchmarks.ablation_table import tables
from vibelite.recipe.load import load_recipe
from vibelite.recipe.stage_section import BASE
from vibelite.run_dir import read_json, write_text_atomic

ROOT = Path(__file__).parent.parent

EVERY = tuple(variant.name for variant in VARIANTS)
# What SFT, fusion, and MGPO beside GRPO bring.
QUESTIONS = ("full", "grpo", "no-probing", "best-single", "lambda-4")
TASKS = {
    "quickstart": Task(ROOT / "recipes" / "quickstart.yaml", 40, 20, EVERY),
    "smollm2": Task(ROOT / "recipes" / "smollm2_135m.yaml", 12, 6, EVERY[:7]),
    "qwen2p5": Task(ROOT / "recipes" / "qwen2p5_0p5b.yaml", 20, 10, QUESTIONS),
}


def write_report(path: Path, head: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """The output, one line a row, so that a change of one model is a change of one line; and its
    tables.
    """
    start = json.dumps(head)[:-1]
    lines = ",\n".join(json.dumps(row) for row in rows)
    write_text_atomic(path, f'{start}, "rows": [\n{lines}\n]}}\n')
    write_text_atomic(path.with_suffix(".md"), tables(rows, max_tokens=head["max_tokens"]) + "\n")


def environment() -> dict[str, Any]:
    import torch

    is_gpu = torch.cuda.is_available()
    return {
        "torch": torch.__version__,
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name() if is_gpu else "cpu",
    }


def known_rows(path: Path, head: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows that an earlier call left in the output. SystemExit where it had other settings or
    another machine.
    """
    if not path.exists():
        return []
    report = read_json(path)
    if any(report[key] != value for key, value in head.items()):
        raise SystemExit(
            f"{path}: holds rows of other settings or of another machine; name another --output"
        )
    return report["rows"]


def rows_of(ablation: Ablation, rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Adds every missing row of a seed to `rows`, and yields them as they come: first what all
    variants start from. A variant stands behind those whose rows it needs.
    """
    seed = ablation.recipe.seed
    chosen = [variant for variant in VARIANTS if variant.name in ablation.task.variants]
    for variant in (None, *chosen):
        known = {row["model"]: row for row in rows if row["seed"] == seed}
        if (variant.name if variant else "fused") in known:
            continue
        found = run_variant(ablation, variant, known) if variant else run_shared(ablation)
        made = [{"seed": seed, **row} for row in found]
        rows += made
        yield made


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--task", choices=list(TASKS), default="quickstart")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--output", type=Path, help="default results/ablations_TASK.json")
    parser.add_argument("--steps", type=int, help="MGPO steps of a variant")
    parser.add_argument("--second-steps", type=int, help="of a stage after the full one")
    parser.add_argument("--variants", nargs="+", choices=EVERY)
    parser.add_argument("--recipe", type=Path, help="another recipe in place of the task's")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_arguments(argv)
    default = TASKS[options.task]
    task = Task(
        options.recipe or default.recipe,
        options.steps or default.num_steps,
        options.second_steps or default.num_second_steps,
        tuple(options.variants or default.variants),
    )
    output = options.output or ROOT / "benchmarks" / "results" / f"ablations_{options.task}.json"
    settings = {
        "recipe": task.recipe.name,
        "steps": task.num_steps,
        "second_steps": task.num_second_steps,
        "set": options.overrides,
        "full": FULL,
    }
    ablations = []
    for seed in options.seeds:
        overrides = [*options.overrides, f"seed={seed}", "verification.num_workers=1"]
        recipe = load_recipe(task.recipe, overrides)
        ablations.append(Ablation(task, recipe, options.run_dir / f"seed-{seed}"))
    max_tokens = evaluation_of(ablations[0].recipe, [BASE]).sampling.max_new_tokens
    head = {"settings": settings, "environment": environment(), "max_tokens": max_tokens}
    rows = known_rows(output, head)
    for ablation in ablations:
        for made in rows_of(ablation, rows):
            write_report(output, head, sorted(rows, key=lambda row: row["seed"]))
            print(f"seed {made[0]['seed']}: {', '.join(row['model'] for row in made)}", flush=True)
    print(tables(rows, max_tokens=max_tokens))


if __name__ == "__main__":
    main()
