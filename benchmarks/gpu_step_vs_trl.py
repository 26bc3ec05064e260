"""Seconds, tokens per second and memory of one reinforcement step beside TRL's, on one GPU.

    python -m benchmarks.gpu_step_vs_trl --out FILE.json [--cases 1024 8192] [--sides vibelite trl]
        [--seconds 480] [--engine transformers] [--tiny]

The same model on both sides (random weights of Qwen2.5-1.5B's exact dimensions in bfloat16), the
same prompts, the same number of completions of the same fixed length, one update on all of them,
sampled by vLLM in the trainer's process on both sides (`--engine transformers`: by neither). Sides
take turns as processes, one at a time; the first step of a process is a warm-up and is told apart.
A side that fails, does not fit or does not end in time is a row that says so, and the JSON is
written after every process.

Memory: the most that the GPU held, by its driver (vLLM's pools and CUDA's context included), and
torch's own count. `--tiny`: a tiny model on a CPU with few tokens, to test the plumbing.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.child_process import run_child
from benchmarks.gpu_activations import QWEN_1_5B
from benchmarks.gpu_vllm_parts import TINY
from benchmarks.random_policy import random_policy
from vibelite.tables import format_table
from vibelite.telemetry.manifest import describe_hardware

PROMPT_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Case:
    """How much is sampled and trained on in a step, and how often beside the warm-up."""

    problems: int
    group_size: int
    tokens: int
    steps: int


CASES = {
    "1024": Case(problems=8, group_size=8, tokens=1024, steps=3),
    "4096": Case(problems=2, group_size=8, tokens=4096, steps=1),
    "8192": Case(problems=2, group_size=8, tokens=8192, steps=1),
}
TINY_CASE = Case(problems=2, group_size=2, tokens=8, steps=1)


@dataclass(frozen=True, slots=True)
class Side:
    """A trainer with its settings; `by_case` is added for that case."""

    module: str
    settings: Mapping[str, Any]
    by_case: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


OURS = {
    "training": {"dtype": "bfloat16", "activations": "checkpoint", "mlp_tile_tokens": 4096},
    "optimizer": {"kind": "adamw"},
    "tokens_per_micro_batch": 16384,
}
TUNED = {
    # What TRL's documentation offers against memory; the batch is the largest that is sure to fit.
    "vllm_enable_sleep_mode": True,
    "model_init_kwargs": {"dtype": "bfloat16"},
    "vllm_gpu_memory_utilization": 0.3,
}
BATCHES = {
    "1024": {"per_device_train_batch_size": 8},
    "4096": {"per_device_train_batch_size": 2},
    "8192": {"per_device_train_batch_size": 1},
}
SIDES = {
    "vibelite": Side("benchmarks.gpu_step_vibelite", OURS),
    "trl-tuned": Side(
        "benchmarks.gpu_step_trl", TUNED,
        BATCHES,
    ),
    "trl-liger": Side(
        "benchmarks.gpu_step_trl", TUNED | {"use_liger_kernel": True},
        BATCHES,
    ),
    # Its defaults: eight sequences at a time, vLLM awake all the time, weights as they are stored.
    "trl-default": Side("benchmarks.gpu_step_trl", {}),
}  # fmt: skip


def run_all(model: Path, options: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    """One row a process: case by case, round by round, the sides in turn."""
    cases = {"tiny": TINY_CASE} if options.tiny else {name: CASES[name] for name in options.cases}
    rows: list[dict[str, Any]] = []
    begun = time.monotonic()
    for name, case in cases.items():
        for turn in range(options.rounds):
            for side in options.sides:
                left = options.seconds - (time.monotonic() - begun)
                row: dict[str, Any] = {"case": name, "side": side, "round": turn}
                if left <= 0:
                    row["failed"] = "no time was left"
                else:
                    work = workload(model, name, case, side, options, scratch)
                    python = sys.executable if side == "vibelite" else options.trl_python
                    command = [python, "-m", SIDES[side].module]
                    row |= run_side(command, work, min(left, options.each), scratch)
                rows.append(row)
                print(table([row]).splitlines()[-1], flush=True)
                if "failed" in row:
                    print(row["failed"], flush=True)
                write(options, rows)
    return rows


def workload(
    model: Path, name: str, case: Case, side: str, options: argparse.Namespace, scratch: Path
) -> dict[str, Any]:
    """What a side is told."""
    config = TINY if options.tiny else QWEN_1_5B
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(
        4, config["vocab_size"], (case.problems, PROMPT_TOKENS), generator=generator
    )
    return {
        "model": str(model),
        "prompts": prompts.tolist(),
        "group_size": case.group_size,
        "max_new_tokens": case.tokens,
        "max_model_len": case.tokens + PROMPT_TOKENS,
        "num_steps": 1 + case.steps,
        "engine": options.engine,
        "settings": {**SIDES[side].settings, **SIDES[side].by_case.get(name, {})},
        "scratch": str(scratch / "trl"),
        "out": str(scratch / "result.json"),
    }


def run_side(
    command: list[str], work: dict[str, Any], seconds: float, scratch: Path
) -> dict[str, Any]:
    """The steps of one side in a process of its own, also of one that did not end well."""
    path = scratch / "work.json"
    path.write_text(json.dumps(work))
    # Without FlashInfer vLLM needs its own sampler; both sides get the same variables.
    defaults = {"VLLM_USE_FLASHINFER_SAMPLER": "0", "VLLM_NO_USAGE_STATS": "1"}
    outcome = run_child(
        [*command, str(path)], Path(work["out"]),
        seconds=seconds, environment=defaults | dict(os.environ), is_quiet=True,
    )  # fmt: skip
    result: dict[str, Any] = outcome.result or {"steps": []}
    if outcome.failure:
        result["failed"] = outcome.failure
    return result | summary(result["steps"], work)


def summary(steps: Sequence[Mapping[str, Any]], work: Mapping[str, Any]) -> dict[str, Any]:
    """Medians over the steps after the warm-up; nothing where there are none."""
    counted = steps[1:]
    if not counted:
        return {}
    seconds = [step["seconds"] for step in counted]
    tokens = len(work["prompts"]) * work["group_size"] * work["max_new_tokens"]
    assert all(step["tokens"] == tokens for step in counted), "completions have their fixed length"
    return {
        "step_seconds": statistics.median(seconds),
        "step_range": [min(seconds), max(seconds)],
        "tokens_per_second": tokens / statistics.median(seconds),
        "generate_seconds": statistics.median(step["generate"] for step in counted),
    } | {
        name: max(step[name] for step in steps)
        for name in ("peak_used_bytes", "peak_allocated_bytes")
        if name in steps[0]
    }


def make_model(directory: Path, *, tiny: bool) -> None:
    """Random weights and a tokenizer that calls token 17 "t17"."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    config = TINY if tiny else QWEN_1_5B
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    random_policy(config, dtype=dtype, device=device).model.save_pretrained(directory)
    words = {f"t{index}": index for index in range(config["vocab_size"])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="t0"))
    tokenizer.pre_tokenizer = WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="t0", eos_token="t1", pad_token="t2"
    ).save_pretrained(directory)


def write(options: argparse.Namespace, rows: Sequence[Mapping[str, Any]]) -> None:
    report = {
        "rows": rows,
        "engine": options.engine,
        "cases": {name: asdict(case) for name, case in CASES.items()},
        "sides": {name: dict(side.settings) for name, side in SIDES.items()},
        "torch": torch.__version__,
        "hardware": describe_hardware(),
    }
    options.out.write_text(json.dumps(report, indent=1) + "\n")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ["case", "side", "step s", "sampling s", "tokens/s", "peak GB", ""]
    cells = [
        [
            row["case"],
            row["side"],
            *(
                f"{row[key] / scale:.{digits}f}" if key in row else ""
                for key, scale, digits in (
                    ("step_seconds", 1, 2),
                    ("generate_seconds", 1, 2),
                    ("tokens_per_second", 1, 0),
                    ("peak_used_bytes", 1e9, 1),
                )
            ),
            "failed" if "failed" in row else "",
        ]
        for row in rows
    ]
    return format_table(header, cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--engine", choices=("vllm", "transformers"), default="vllm")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=480.0, help="for everything together")
    parser.add_argument("--each", type=float, default=240.0, help="at most for one process")
    parser.add_argument("--trl-python", default=sys.executable, help="an interpreter with TRL")
    parser.add_argument("--tiny", action="store_true", help="a tiny model on a CPU")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model"
        make_model(model, tiny=options.tiny)
        rows = run_all(model, options, Path(scratch))
    print("\n" + table(rows))
    sys.exit(any("failed" in row for row in rows))


if __name__ == "__main__":
    main()
