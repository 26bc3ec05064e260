"""VibeLite's side of `step_vs_trl.py`: the seconds and the memory of its SFT and MGPO steps.

Reads the workload written by `step_vs_trl.py` and takes turns with the other side; steps are those
of `random_policy.py`, so that both trainers do the same work.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from benchmarks.random_policy import bare_trainer, mgpo_step, sft_step
from benchmarks.step_turns import Turns, report_end
from vibelite.data.batching import TrainingSequence
from vibelite.data.chat import prompt_ids, trace_ids
from vibelite.models.activations import apply_activations
from vibelite.models.load import load_policy
from vibelite.models.policy import Policy
from vibelite.recipe.model_section import Training
from vibelite.recipe.stage_section import MGPOStage, Optimizer, Sampling, SFTStage
from vibelite.rollout.transformers_engine import TransformersEngine
from vibelite.telemetry.memory import resident_bytes, return_freed_tensors, take_peak_bytes
from vibelite.training.optim import PolicyOptimizer

OPTIMIZER = Optimizer(lr=1e-5, warmup_fraction=0)


def sft_steps(work: dict[str, Any], policy: Policy) -> Iterator[None]:
    """One SFT step per iteration."""
    stage = SFTStage(
        kind="sft", num_steps=work["num_steps"], checkpoint_every=1, optimizer=OPTIMIZER,
        tokens_per_micro_batch=work["ours"]["tokens_per_micro_batch"],
    )  # fmt: skip
    optimizer = PolicyOptimizer(policy, OPTIMIZER, num_steps=stage.num_steps)
    sequences = []
    for prompt, completion in work["traces"]:
        ids, num_prompt = trace_ids(policy.tokenizer, messages(prompt, completion))
        sequences.append(TrainingSequence(ids[: work["max_tokens"]], num_prompt))
    for step in range(stage.num_steps):
        sft_step(policy, optimizer, sequences, stage, step, lambda _: nullcontext())
        yield


def mgpo_steps(work: dict[str, Any], policy: Policy) -> Iterator[None]:
    """One MGPO step per iteration, sampling included."""
    sampling = Sampling(max_new_tokens=work["max_new_tokens"])
    stage = MGPOStage(
        kind="mgpo", num_steps=work["num_steps"], optimizer=OPTIMIZER, sampling=sampling,
        group_size=work["group_size"],
        tokens_per_micro_batch=work["ours"]["tokens_per_micro_batch"],
    )  # fmt: skip
    optimizer = PolicyOptimizer(policy, OPTIMIZER, num_steps=stage.num_steps)
    engine = TransformersEngine(policy, stop_ids=(), max_sequences=sampling.max_sequences)
    trainer = bare_trainer(stage, policy, optimizer, engine)
    prompts = [prompt_ids(policy.tokenizer, messages(prompt)) for prompt, _ in work["traces"]]
    for step in range(stage.num_steps):
        mgpo_step(trainer, prompts, step, lambda _: nullcontext())
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
