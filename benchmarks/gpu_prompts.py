"""Sampling in steady state: what it costs to fill every place as it falls free, against filling the
free ones together every few steps (`STEPS_BETWEEN_PROMPTS` of rollout/vllm_engine.py).

    python -m benchmarks.gpu_prompts --model DIRECTORY --out FILE.json [--every 1 16]

A real model answers the problems of recipes/qwen2p5_0p5b.yaml, four times each, 512 at a time: its
completions end at different steps, as in a run. The ways take turns in one process, with one
engine; the same seeds give the same work but for rounding.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.child_process import ROOT
from benchmarks.row_report import row_saver
from vibelite.data.chat import prompt_ids
from vibelite.data.sources import load_problems
from vibelite.models.load import load_policy
from vibelite.recipe.load import load_recipe
from vibelite.recipe.stage_section import MGPOStage
from vibelite.rollout import vllm_engine
from vibelite.rollout.engine import SamplingSettings
from vibelite.rollout.vllm_start import scheduler_of
from vibelite.stages.engines import build_engine

RECIPE = ROOT / "recipes" / "qwen2p5_0p5b.yaml"


def measure(
    engine: vllm_engine.VLLMEngine, prompts: Sequence[Sequence[int]], every: int, seed: int
) -> dict[str, Any]:
    """A row: tokens and seconds of four completions of each prompt; the median milliseconds of a
    step that reads prompts, and of one that reads none with nearly all places full.
    """
    scheduler = scheduler_of(engine._llm)
    schedule, steps = scheduler.schedule, []

    def recorded(*arguments: Any) -> Any:
        output = schedule(*arguments)
        counts = output.num_scheduled_tokens
        reads = output.total_num_scheduled_tokens != len(counts)
        steps.append((time.perf_counter(), reads, len(counts)))
        return output

    scheduler.schedule, vllm_engine.STEPS_BETWEEN_PROMPTS = recorded, every
    start = time.perf_counter()
    stream = engine.stream(prompts, SamplingSettings(4, 512), seed=seed)
    num_tokens = sum(len(completion.token_ids) for _, _, completion in stream)
    seconds = time.perf_counter() - start
    scheduler.schedule = schedule
    full = 0.9 * engine.settings.max_sequences
    pairs = list(zip(steps, steps[1:], strict=False))
    reading = [after[0] - step[0] for step, after in pairs if step[1]]
    decoding = [after[0] - step[0] for step, after in pairs if not step[1] and step[2] > full]
    return {
        "every": every,
        "tokens": num_tokens,
        "seconds": seconds,
        "tokens_per_second": num_tokens / seconds,
        "steps": len(steps),
        "steps_with_prompts": len(reading),
        "prompt_step_ms": 1e3 * median(reading),
        "decode_step_ms": 1e3 * median(decoding) if decoding else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--problems", type=int, default=600)
    parser.add_argument("--every", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    recipe = load_recipe(RECIPE)
    (stage,) = (stage for stage in recipe.stages if isinstance(stage, MGPOStage))
    policy = load_policy(arguments.model)
    problems = load_problems(recipe.data.problems["train"], recipe_dir=RECIPE.parent, seed=0)
    prompts = [
        prompt_ids(policy.tokenizer, problem.messages, recipe.data, row=problem.id)
        for problem in problems[: arguments.problems]
    ]
    engine = build_engine(recipe, policy, stage.sampling)
    assert isinstance(engine, vllm_engine.VLLMEngine)
    measure(engine, prompts[:8], 1, seed=0)  # warm
    save, rows = row_saver(arguments.out), []
    for seed in range(1, arguments.rounds + 1):
        for every in arguments.every:
            rows.append(measure(engine, prompts, every, seed))
            save(rows)
            print(rows[-1], flush=True)
    engine.close()


if __name__ == "__main__":
    main()
