"""One stage's steps of a recipe in a process of its own, without a run directory: what they take.

    python -m benchmarks.planner_steps WORK.json

Reads {"recipe", "model", "prompt_tokens"} and prints one JSON object: `before_bytes`, what the
process held beside the weights when the model was loaded (libraries, tokenizer); the peak of memory
over all steps, as the pipeline records it; and for each step the rates of the machine at its start
(on a CPU), and the peaks and seconds of its parts. Steps are those of `random_policy.py`, on random
tokens of exactly the planned lengths.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch

from benchmarks.random_policy import bare_trainer, mgpo_step, now, random_prompts, sft_step
from vibelite.data.batching import TrainingSequence
from vibelite.models.activations import apply_activations
from vibelite.models.load import load_policy
from vibelite.models.policy import Policy
from vibelite.recipe.schema import Recipe
from vibelite.recipe.stage_section import MGPOStage, SFTStage
from vibelite.rollout.engine import RolloutEngine
from vibelite.rollout.transformers_engine import TransformersEngine
from vibelite.telemetry.memory import bytes_held, return_freed_tensors, take_peak_bytes
from vibelite.training.optim import PolicyOptimizer


def seconds_of(work: Callable[[], object], *, repeats: int = 3) -> float:
    """Median seconds on the processor, after one unmeasured time."""
    work()
    found = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return median(found)


def measure_rates() -> dict[str, float]:
    """Products in float32 with weights that are not in the processor's caches.

    A weight of 50 MB times 16 rows: nothing counts but its passing. 16 weights of 512 x 1280 times
    1024 rows: arithmetic and their passing.
    """
    few, large = torch.randn(16, 768), torch.randn(16 * 1024, 768)
    passing = large.numel() * 4 / seconds_of(lambda: few @ large.T)
    rows, weights = torch.randn(1024, 512), torch.randn(16, 1280, 512)
    out = torch.empty(1024, 1280)

    def multiply() -> None:
        for weight in weights:
            torch.mm(rows, weight.T, out=out)

    seconds = seconds_of(multiply) / 16
    num_bytes = weights[0].numel() * 4
    flops = 2 * 1024 * 512 * 1280 / max(seconds - num_bytes / passing, 0.2 * seconds)
    return {"bytes_per_second": passing, "flops": flops}


class Watch:
    """Seconds and peak bytes of the parts of each step, and on a CPU its rates beside each step.

    On a GPU seconds are those of the clock, and the device is waited for; on a CPU they are those
    that the process, which has one thread, got of a processor.
    """

    def __init__(self, policy: Policy) -> None:
        self._device = policy.device
        self.steps: list[dict[str, Any]] = []

    def start_step(self) -> None:
        rates = None if self._device.type == "cuda" else measure_rates()
        self.steps.append({"rates": rates, "seconds": {}, "peak_bytes": {}})

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        step = self.steps[-1]
        take_peak_bytes()
        start = self._now()
        yield
        step["seconds"][name] = self._now() - start
        step["peak_bytes"][name] = take_peak_bytes()

    def _now(self) -> float:
        return now(self._device) if self._device.type == "cuda" else time.process_time()


def sft_steps(stage: SFTStage, policy: Policy, optimizer: PolicyOptimizer, prompt: int) -> Any:
    """What SFT steps on sequences of `stage.max_tokens` take."""
    vocab_size = policy.head.weight.shape[0]
    tokens = random_prompts(vocab_size, stage.sequences_per_step, stage.max_tokens)
    sequences = [TrainingSequence(ids, prompt) for ids in tokens]
    watch = Watch(policy)
    for step in range(stage.num_steps):
        watch.start_step()
        sft_step(policy, optimizer, sequences, stage, step, watch.part)
    return watch.steps


def mgpo_steps(
    stage: MGPOStage,
    policy: Policy,
    optimizer: PolicyOptimizer,
    prompt: int,
    engine: RolloutEngine | None = None,
) -> Any:
    """What MGPO steps take, sampling included. `engine` samples in place of the transformers
    engine.
    """
    if engine is None:
        engine = TransformersEngine(policy, stop_ids=(), max_sequences=stage.sampling.max_sequences)
    trainer = bare_trainer(stage, policy, optimizer, engine)
    prompts = random_prompts(policy.head.weight.shape[0], stage.problems_per_step, prompt)
    watch = Watch(policy)
    for step in range(stage.num_steps):
        watch.start_step()
        mgpo_step(trainer, prompts, step, watch.part)
    return watch.steps


def main(path: str) -> None:
    work = json.loads(Path(path).read_text())
    recipe = Recipe.model_validate(work["recipe"])
    (stage,) = recipe.stages
    assert isinstance(stage, SFTStage | MGPOStage)
    return_freed_tensors()
    torch.set_float32_matmul_precision(recipe.matmul_precision)
    torch.set_num_threads(recipe.num_threads)
    measure_rates()  # and everything that a first step loads
    policy = load_policy(Path(work["model"]), dtype=recipe.training.dtype)
    for parameter in policy.model.parameters():
        parameter.detach().sum()  # the weights are in memory, not only mapped from the file
    before = bytes_held() - sum(p.numel() * p.element_size() for p in policy.model.parameters())
    apply_activations(policy.model, recipe.training)
    optimizer = PolicyOptimizer(
        policy, stage.optimizer, num_steps=stage.num_steps, training=recipe.training
    )
    run = sft_steps if isinstance(stage, SFTStage) else mgpo_steps
    steps = run(cast(Any, stage), policy, optimizer, work["prompt_tokens"])
    peak = max(size for step in steps for size in step["peak_bytes"].values())
    print(json.dumps({"before_bytes": before, "peak_bytes": peak, "steps": steps}))


if __name__ == "__main__":
    main(sys.argv[1])
