"""Seconds and memory of a training step beside TRL's, on SmolLM2-135M and a CPU.

    bash scripts/setup_trl.sh
    python -m benchmarks.step_vs_trl --output benchmarks/results/step_vs_trl.json

The same model, prompts, texts, global batch and completion lengths on both sides, transformers'
generation on both; the two processes of a case alternate step by step, and the first step of each
is a warm-up. Memory is the peak of resident memory above the process that has only loaded the
model. Seconds are those of the clock, and of the processor, which say the same unless others use
the machine. Each case is one workload with one setting of TRL: its defaults come first, then what
makes it smaller or faster. Ours is one setting throughout.
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

from benchmarks.step_turns import MARK
from vibelite.data.generated import generate_problems
from vibelite.data.worked import work_out
from vibelite.models.smollm2 import smollm2_directory
from vibelite.recipe.data_section import GeneratedProblems
from vibelite.telemetry.manifest import cpu_name

ROOT = Path(__file__).parent.parent
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
        "num_steps": 1 + options.rounds,
        "num_threads": options.threads,
        "bf16": options.bf16,
        "ours": OURS,
        "scratch": scratch,
    }


class Side:
    """One side's process, which runs one step a turn."""

    def __init__(self, python: str, script: str, path: Path) -> None:
        self._log = path.with_name(f"{script}.log")
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [python, "-m", f"benchmarks.{script}", str(path)], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT,
            )  # fmt: skip
        self._read()  # the model is loaded

    def turn(self) -> dict[str, float]:
        """Lets the process go on; what it says next: of a step, or of its end."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _read(self) -> dict[str, float]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                return json.loads(line.removeprefix(MARK))
        raise SystemExit(f"{self._process.args} failed:\n{self._log.read_text()[-3000:]}")


def measure(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Both sides of one case, in turn; their first steps are not counted."""
    sides: dict[str, Side] = {}
    steps: dict[str, list[dict[str, float]]] = {"trl": [], "vibelite": []}
    try:
        sides["trl"] = Side(str(options.trl_python), "step_trl", path)
        sides["vibelite"] = Side(sys.executable, "step_vibelite", path)
        for _ in range(1 + options.rounds):
            for name, side in sides.items():
                steps[name].append(side.turn())
        ends = {name: side.turn() for name, side in sides.items()}
    finally:
        for side in sides.values():
            side.close()
    row: dict[str, Any] = {name: summarise(steps[name][1:]) | ends[name] for name in sides}
    ours, theirs = row["vibelite"], row["trl"]
    for key in ("seconds_median", "cpu_seconds_median", "peak_bytes"):
        row[key.replace("_median", "") + "_ratio"] = ours[key] / theirs[key]
    return row


def summarise(steps: list[dict[str, float]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in ("seconds", "cpu_seconds"):
        values = [step[key] for step in steps]
        found |= {f"{key}_median": statistics.median(values), key: values}
    return found


def row_text(name: str, row: dict[str, Any]) -> str:
    cells = [
        f"{what} {row['trl'][key] / unit:.{digits}f} -> {row['vibelite'][key] / unit:.{digits}f} "
        f"({row[ratio]:.2f}x)"
        for what, key, ratio, unit, digits in (
            ("seconds", "seconds_median", "seconds_ratio", 1, 2),
            ("of the processor", "cpu_seconds_median", "cpu_seconds_ratio", 1, 2),
            ("MiB", "peak_bytes", "peak_bytes_ratio", 2**20, 0),
        )
    ]
    return f"{name:<28} " + "   ".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(description="A training step beside TRL's.")
    parser.add_argument("--trl-python", type=Path, default=ROOT / ".venv-trl/bin/python",
                        help="an interpreter that has TRL")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, help="counted steps of each side")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bf16", action="store_true", help="bfloat16 products on both sides")
    parser.add_argument("--only", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--output", type=Path, help="where the JSON goes, after every case")
    options = parser.parse_args()
    versions = subprocess.check_output(
        [str(options.trl_python), "-c", "import torch, transformers, trl\n"
         "print(*(f'{m.__name__} {m.__version__}' for m in (torch, transformers, trl)))"],
        text=True,
    ).strip()  # fmt: skip
    print(versions)
    report = {
        "trl_side": versions,
        "vibelite_torch": torch.__version__,
        "cpu": cpu_name(),
        "threads": options.threads,
        "bf16_products": options.bf16,
        "workloads": {"sft": SFT, "mgpo": MGPO},
        "vibelite_settings": OURS,
        "trl_settings": CASES,
        "cases": [],
    }
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.only:
            path = Path(scratch) / "work.json"
            path.write_text(json.dumps(workload(CASES[name], options, scratch)))
            row = measure(path, options)
            report["cases"].append({"case": name, **row})
            print(row_text(name, row), flush=True)
            if options.output:
                options.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
