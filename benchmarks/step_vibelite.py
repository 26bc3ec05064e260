"""VibeLite's side of `step_vs_trl.py`: the seconds and the memory of its SFT and MGPO steps.

Reads the workload written by `step_vs_trl.py` and takes turns with the other side. A step is made
of the stages' own functions in their order. Two things differ from a run: no completion ends early,
and every second one of a group is right, so that both trainers do the same work.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from step_turns import Turns, report_end

from vibelite.algorithms.advantages import group_advantages, maxent_weight
from vibelite.data.batching import TrainingSequence
from vibelite.data.chat import prompt_ids, trace_ids
from vibelite.models.activations import apply_activations
from vibelite.models.load import load_policy
from vibelite.models.policy import Policy
from vibelite.recipe.model_section import Training
from vibelite.recipe.stage_section import MGPOStage, Optimizer, Sampling, SFTStage
from vibelite.rollout.engine import SamplingSettings, generate
from vibelite.rollout.transformers_engine import TransformersEngine
from vibelite.stages import mgpo, sft
from vibelite.telemetry.hardware import resident_bytes
from vibelite.telemetry.memory import return_freed_tensors, take_peak_bytes
from vibelite.training.optim import PolicyOptimizer
from vibelite.types import Group, Problem, Verdict

OPTIMIZER = Optimizer(lr=1e-5, warmup_fraction=0)


def sft_steps(work: dict[str, Any], policy: Policy):
    """One SFT step per iteration."""
    stage = SFTStage(
        kind="sft", num_steps=work["num_steps"], checkpoint_every=1, optimizer=OPTIMIZER,
        tokens_per_micro_batch=work["ours"]["tokens_per_micro_batch"],
    )  # fmt: skip
    optimizer = PolicyOptimizer(policy, OPTIMIZER, num_steps=stage.num_steps)
    sequences = [
        TrainingSequence(*trace_ids(policy.tokenizer, messages(prompt, completion)))
        for prompt, completion in work["traces"]
    ]
    sequences = [
        replace(s, token_ids=s.token_ids[:limit])
        for s in sequences
        for limit in [work["max_tokens"]]
    ]
    for step in range(stage.num_steps):
        sft.accumulate_gradient(policy, sequences, stage)
        optimizer.step(step)
        yield


def mgpo_steps(work: dict[str, Any], policy: Policy):
    """One MGPO step per iteration, sampling included."""
    sampling = Sampling(max_new_tokens=work["max_new_tokens"])
    stage = MGPOStage(
        kind="mgpo", num_steps=work["num_steps"], optimizer=OPTIMIZER, sampling=sampling,
        group_size=work["group_size"],
        tokens_per_micro_batch=work["ours"]["tokens_per_micro_batch"],
    )  # fmt: skip
    optimizer = PolicyOptimizer(policy, OPTIMIZER, num_steps=stage.num_steps)
    engine = TransformersEngine(policy, stop_ids=(), max_sequences=sampling.max_sequences)
    trainer = mgpo.Trainer(stage, cast(Any, None), policy, None, engine, optimizer)
    problems = [
        Problem(str(index), "all", tuple(messages(prompt)), "", "exact")
        for index, (prompt, _) in enumerate(work["traces"])
    ]
    prompts = [prompt_ids(policy.tokenizer, problem.messages) for problem in problems]
    settings = SamplingSettings(stage.group_size, sampling.max_new_tokens)
    verdicts = tuple(Verdict(index % 2, bool(index % 2)) for index in range(stage.group_size))
    for step in range(stage.num_steps):
        sampled = generate(engine, prompts, settings, seed=step)
        groups = [
            Group(problem, tuple(prompt), tuple(completions), verdicts)
            for problem, prompt, completions in zip(problems, prompts, sampled, strict=True)
        ]
        advantages = [
            [maxent_weight(group.pass_rate, stage.maxent_lambda) * value for value in values]
            for group in groups
            for values in [group_advantages(group.rewards)]
        ]
        for batch in mgpo.training_batches(trainer, groups, advantages):
            mgpo.accumulate_gradient(trainer, batch, None, None)
        optimizer.step(step)
        yield


def messages(prompt: str, completion: str | None = None) -> list[dict[str, str]]:
    turns = [{"role": "user", "content": prompt}]
    return turns + [{"role": "assistant", "content": completion}] if completion else turns


def main(path: str) -> None:
    work = json.loads(Path(path).read_text())
    torch.set_num_threads(work["num_threads"])
    torch.set_float32_matmul_precision("medium" if work["bf16"] else "highest")
    return_freed_tensors()
    policy = load_policy(work["model"], dtype="float32")
    apply_activations(policy.model, Training(activations=work["ours"]["activations"]))
    for parameter in policy.model.parameters():
        parameter.detach().sum()  # the weights are in memory, not only mapped from the file
    bare = resident_bytes()
    take_peak_bytes()
    steps = {"sft": sft_steps, "mgpo": mgpo_steps}[work["method"]]
    turns = Turns()
    turns.start()
    for _ in steps(work, policy):
        turns.end_step()
    report_end({"peak_bytes": take_peak_bytes() - bare, "bare_bytes": bare})


if __name__ == "__main__":
    main(sys.argv[1])
