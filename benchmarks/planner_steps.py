"""One stage's steps of a recipe in a process of its own, without a run directory: what they take.

    python -m benchmarks.planner_steps WORK.json

Reads {"recipe", "model", "prompt_tokens"} and prints one JSON object: `before_bytes`, what the
process held beside the weights when the model was loaded (libraries, tokenizer); the peak of memory
over all steps, as the pipeline records it; and for each step the rates of the machine at its start
(on a CPU), and the peaks and seconds of its parts. A step is made of the stages' own functions in
their order. Two things differ from a run: sequences are random tokens of exactly the planned
lengths, and every second completion of a group is right.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch

from benchmarks.planner_rates import measure_rates
from vibelite.algorithms.advantages import group_advantages, maxent_weight
from vibelite.data.batching import TrainingSequence
from vibelite.models.activations import apply_activations
from vibelite.models.load import load_policy
from vibelite.models.policy import Policy
from vibelite.recipe.schema import Recipe
from vibelite.recipe.stage_section import MGPOStage, SFTStage
from vibelite.rollout.engine import RolloutEngine, generate
from vibelite.rollout.transformers_engine import TransformersEngine
from vibelite.stages import mgpo, sft
from vibelite.stages.context import sampling_settings
from vibelite.telemetry.memory import bytes_held, return_freed_tensors, take_peak_bytes
from vibelite.training.optim import PolicyOptimizer
from vibelite.types import Group, Problem, Verdict


class Watch:
    """Seconds and peak bytes of the parts of each step, and on a CPU its rates beside each step.

    On a GPU seconds are those of the clock, and the device is waited for; on a CPU they are those
    that the process, which has one thread, got of a processor.
    """

    def __init__(self, policy: Policy) -> None:
        self._is_gpu = policy.device.type == "cuda"
        self.steps: list[dict[str, Any]] = []

    def start_step(self) -> None:
        rates = None if self._is_gpu else measure_rates()
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
        if not self._is_gpu:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()


def sft_steps(stage: SFTStage, policy: Policy, optimizer: PolicyOptimizer, prompt: int) -> Any:
    """Runs one SFT step per iteration, on sequences of `stage.max_tokens`."""
    sequences = [
        TrainingSequence(tokens, prompt)
        for tokens in random_tokens(policy, stage.sequences_per_step, stage.max_tokens)
    ]
    watch = Watch(policy)
    for step in range(stage.num_steps):
        watch.start_step()
        with watch.part("train"):
            sft.accumulate_gradient(policy, sequences, stage, loss_scale=optimizer.loss_scale)
        with watch.part("optimizer"):
            optimizer.step(step)
            optimizer.finish()
    return watch.steps


def mgpo_steps(
    stage: MGPOStage,
    policy: Policy,
    optimizer: PolicyOptimizer,
    prompt: int,
    engine: RolloutEngine | None = None,
) -> Any:
    """Runs one MGPO step per iteration, sampling included; no completion ends early. `engine`
    samples in place of the transformers engine.
    """
    if engine is None:
        engine = TransformersEngine(policy, stop_ids=(), max_sequences=stage.sampling.max_sequences)
    trainer = mgpo.Trainer(stage, cast(Any, None), policy, None, engine, optimizer)
    prompts = random_tokens(policy, stage.problems_per_step, prompt)
    settings = sampling_settings(stage.sampling, stage.group_size)
    verdicts = tuple(
        Verdict(index % 2, bool(index % 2)) for index in range(settings.num_completions)
    )
    problem = Problem("0", "all", ({"role": "user", "content": ""},), "", "exact")
    watch = Watch(policy)
    for step in range(stage.num_steps):
        watch.start_step()
        with watch.part("generate"):
            engine.wake()
            sampled = generate(engine, prompts, settings, seed=step)
            engine.sleep()
        with watch.part("train"):
            groups = [
                Group(problem, tuple(tokens), tuple(completions), verdicts)
                for tokens, completions in zip(prompts, sampled, strict=True)
            ]
            advantages = [
                [maxent_weight(group.pass_rate, stage.maxent_lambda) * value for value in values]
                for group in groups
                for values in [group_advantages(group.rewards)]
            ]
            for batch in mgpo.training_batches(trainer, groups, advantages):
                known = mgpo.frozen_logprobs(trainer, batch)
                mgpo.accumulate_gradient(trainer, batch, *known)
        with watch.part("optimizer"):
            optimizer.step(step)
            optimizer.finish()
            engine.load_weights(step + 1)
    return watch.steps


def random_tokens(policy: Policy, num: int, length: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    vocab_size = policy.head.weight.shape[0]
    return torch.randint(vocab_size, (num, length), generator=generator).tolist()


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
