"""One stage's steps of a recipe in a process of its own, without a run directory: what they take.

    python -m benchmarks.planner_steps WORK.json

Reads {"recipe", "model", "prompt_tokens", "num_steps"} and prints one JSON object: the peak of
memory over all steps, as the pipeline records it, and the seconds of each step's parts. A step is
made of the stages' own functions in their order. Two things differ from a run: sequences are random
tokens of exactly the planned lengths, and every second completion of a group is right.
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

from vibelite.algorithms.advantages import group_advantages, maxent_weight
from vibelite.data.batching import TrainingSequence
from vibelite.models.activations import apply_activations
from vibelite.models.load import load_policy
from vibelite.models.policy import Policy
from vibelite.recipe.schema import Recipe
from vibelite.recipe.stage_section import MGPOStage, SFTStage
from vibelite.rollout.engine import generate
from vibelite.rollout.transformers_engine import TransformersEngine
from vibelite.stages import mgpo, sft
from vibelite.stages.context import sampling_settings
from vibelite.telemetry.memory import return_freed_tensors, take_peak_bytes
from vibelite.training.optim import PolicyOptimizer
from vibelite.types import Group, Problem, Verdict


class Stopwatch:
    """Seconds of the parts of each step; a GPU is waited for."""

    def __init__(self, policy: Policy) -> None:
        self._is_gpu = policy.device.type == "cuda"
        self.steps: list[dict[str, float]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = self._now()
        yield
        self.steps[-1][name] = self._now() - start

    def _now(self) -> float:
        if self._is_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()


def sft_steps(stage: SFTStage, policy: Policy, optimizer: PolicyOptimizer, prompt: int) -> Any:
    """Runs one SFT step per iteration, on sequences of `stage.max_tokens`."""
    mask = [False] * prompt + [True] * (stage.max_tokens - prompt)
    sequences = [
        TrainingSequence(tokens, mask)
        for tokens in random_tokens(policy, stage.sequences_per_step, stage.max_tokens)
    ]
    watch = Stopwatch(policy)
    for step in range(stage.num_steps):
        watch.steps.append({})
        with watch.part("train"):
            sft.accumulate_gradient(policy, sequences, stage, loss_scale=optimizer.loss_scale)
        with watch.part("optimizer"):
            optimizer.step(step)
            optimizer.finish()
    return watch.steps


def mgpo_steps(stage: MGPOStage, policy: Policy, optimizer: PolicyOptimizer, prompt: int) -> Any:
    """Runs one MGPO step per iteration, sampling included; no completion ends early."""
    engine = TransformersEngine(policy, stop_ids=(), max_sequences=stage.sampling.max_sequences)
    trainer = mgpo.Trainer(stage, cast(Any, None), policy, None, engine, optimizer)
    prompts = random_tokens(policy, stage.problems_per_step, prompt)
    settings = sampling_settings(stage.sampling, stage.group_size)
    verdicts = tuple(
        Verdict(index % 2, bool(index % 2)) for index in range(settings.num_completions)
    )
    problem = Problem("0", "all", ({"role": "user", "content": ""},), "", "exact")
    watch = Stopwatch(policy)
    for step in range(stage.num_steps):
        watch.steps.append({})
        with watch.part("generate"):
            sampled = generate(engine, prompts, settings, seed=step)
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
    return watch.steps


def random_tokens(policy: Policy, num: int, length: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    vocab_size = policy.head.shape[0]
    return torch.randint(vocab_size, (num, length), generator=generator).tolist()


def main(path: str) -> None:
    work = json.loads(Path(path).read_text())
    recipe = Recipe.model_validate(work["recipe"])
    (stage,) = recipe.stages
    assert isinstance(stage, SFTStage | MGPOStage)
    return_freed_tensors()
    torch.set_float32_matmul_precision(recipe.matmul_precision)
    torch.set_num_threads(recipe.num_threads)
    policy = load_policy(Path(work["model"]), dtype=recipe.training.dtype)
    for parameter in policy.model.parameters():
        parameter.detach().sum()  # the weights are in memory, not only mapped from the file
    apply_activations(policy.model, recipe.training)
    optimizer = PolicyOptimizer(
        policy, stage.optimizer, num_steps=stage.num_steps, training=recipe.training
    )
    take_peak_bytes()
    run = sft_steps if isinstance(stage, SFTStage) else mgpo_steps
    steps = run(cast(Any, stage), policy, optimizer, work["prompt_tokens"])
    print(json.dumps({"peak_bytes": take_peak_bytes(), "steps": steps}))


if __name__ == "__main__":
    main(sys.argv[1])
