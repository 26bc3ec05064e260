"""Seconds and memory of a training step beside TRL's, on SmolLM2-135M and a CPU.

    python benchmarks/step_vs_trl.py --trl-python TRL_VENV/bin/python

The same model, prompts, texts, global batch and completion lengths on both sides; processes of both
sides alternate, and the first step of each is a warm-up. Memory is the peak of resident memory
above the process that has only loaded the model. Each case is one workload with one setting of
TRL: its defaults come first, then what makes it smaller or faster. Ours is one setting throughout.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from vibelite.data.generated import generate_problems
from vibelite.data.worked import work_out
from vibelite.models.smollm2 import smollm2_directory
from vibelite.recipe.data_section import GeneratedProblems
from vibelite.telemetry.hardware import cpu_name

HERE = Path(__file__).parent
TASK = {"sums": {"dataset": "chain_sum", "config": {"min_terms": 3, "max_terms": 6}}}
CASES: dict[str, dict[str, Any]] = {
    # TRL's defaults: gradient checkpointing, micro-batches of 8 padded sequences.
    "sft, defaults": {"method": "sft", "activations": "checkpoint", "trl_loss": "nll"},
    "sft, chunked loss": {"method": "sft", "activations": "checkpoint", "trl_loss": "chunked_nll"},
    "sft, one sequence at a time": {
        "method": "sft", "activations": "checkpoint", "trl_loss": "chunked_nll",
        "sequences_per_micro_batch": 1,
    },
    "sft, no checkpointing": {"method": "sft", "activations": "keep", "trl_loss": "chunked_nll"},
    "mgpo, defaults": {"method": "mgpo", "activations": "checkpoint"},
    "mgpo, no checkpointing": {"method": "mgpo", "activations": "keep"},
}  # fmt: skip
# The same in every case: all of a micro-batch's activations fit beside the optimizer's state.
OURS = {"activations": "keep", "tokens_per_micro_batch": 320}
SFT = {"num_sequences": 8, "max_tokens": 512, "sequences_per_micro_batch": 8}
MGPO = {"num_problems": 2, "group_size": 8, "max_new_tokens": 96, "sequences_per_micro_batch": 8}


def workload(case: dict[str, Any], options: argparse.Namespace, scratch: str) -> dict[str, Any]:
    """What both sides are told; lengths of traces are log-normal, as those of reasoning are."""
    work = (SFT if case["method"] == "sft" else MGPO) | case
    if case["method"] == "mgpo":
        work["num_sequences"] = work["num_problems"] * work["group_size"]
    count = work.get("num_problems", work["num_sequences"])
    source = GeneratedProblems.model_validate(
        {"source": "reasoning_gym", "split": "train", "num_problems": 400, "tasks": TASK}
    )
    traces = iter(work_out(generate_problems(source, seed=0), paths_per_problem=1))
    generator = random.Random(0)
    pairs = []
    for _ in range(count):
        question, *answers = next(traces).messages
        size = generator.lognormvariate(5.4, 0.7)  # about a token a character, as digits are
        text = answers[-1]["content"]
        while len(text) < size:
            text += "\n" + next(traces).messages[-1]["content"]
        pairs.append((question["content"], text))
    return work | {
        "model": str(smollm2_directory()),
        "traces": pairs,
        "num_steps": 1 + options.steps,
        "num_threads": options.threads,
        "bf16": options.bf16,
        "ours": OURS,
        "scratch": scratch,
    }


def measure(python: str, script: str, path: Path) -> dict[str, Any]:
    """Runs one side in a process of its own; its first step is not counted."""
    process = subprocess.run(
        [python, str(HERE / script), str(path)], capture_output=True, text=True, cwd=HERE.parent
    )
    if process.returncode:
        raise SystemExit(f"{script} failed:\n{process.stderr[-3000:]}")
    result = json.loads(process.stdout.strip().splitlines()[-1])
    return result | {"seconds": result["seconds"][1:]}


def summarise(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = [value for one in rounds for value in one["seconds"]]
    peaks = [one["peak_bytes"] / 2**20 for one in rounds]
    return {
        "seconds_median": statistics.median(seconds),
        "seconds_range": [min(seconds), max(seconds)],
        "num_steps": len(seconds),
        "peak_mib_median": statistics.median(peaks),
        "peak_mib_range": [min(peaks), max(peaks)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="A training step beside TRL's.")
    parser.add_argument("--trl-python", required=True, help="an interpreter that has TRL")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2, help="counted steps of a process")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bf16", action="store_true", help="bfloat16 products on both sides")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--output", type=Path, help="where the JSON goes")
    options = parser.parse_args()
    versions = subprocess.check_output(
        [options.trl_python, "-c", "import torch, transformers, trl\n"
         "print(*(f'{m.__name__} {m.__version__}' for m in (torch, transformers, trl)))"],
        text=True,
    ).strip()  # fmt: skip
    print(versions)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, case in CASES.items():
            if options.only not in name:
                continue
            path = Path(scratch) / "work.json"
            path.write_text(json.dumps(workload(case, options, scratch)))
            sides: dict[str, list[dict[str, Any]]] = {"trl": [], "vibelite": []}
            for _ in range(options.rounds):
                sides["trl"].append(measure(options.trl_python, "step_trl.py", path))
                sides["vibelite"].append(measure(sys.executable, "step_vibelite.py", path))
            row: dict[str, Any] = {side: summarise(rounds) for side, rounds in sides.items()}
            row["seconds_ratio"] = row["vibelite"]["seconds_median"] / row["trl"]["seconds_median"]
            row["peak_ratio"] = row["vibelite"]["peak_mib_median"] / row["trl"]["peak_mib_median"]
            rows.append({"case": name, **row})
            print(
                f"{name:<28} seconds {row['trl']['seconds_median']:7.2f} -> "
                f"{row['vibelite']['seconds_median']:6.2f} ({row['seconds_ratio']:.2f}x)   "
                f"MiB {row['trl']['peak_mib_median']:6.0f} -> "
                f"{row['vibelite']['peak_mib_median']:6.0f} ({row['peak_ratio']:.2f}x)",
                flush=True,
            )
    if options.output:
        report = {
            "trl_side": versions,
            "vibelite_torch": torch.__version__,
            "cpu": cpu_name(),
            "threads": options.threads,
            "bf16_products": options.bf16,
            "workloads": {"sft": SFT, "mgpo": MGPO},
            "vibelite_settings": OURS,
            "trl_settings": CASES,
            "cases": rows,
        }
        options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
