"""VibeLite's side of `gpu_step_vs_trl.py`: seconds, tokens and memory of MGPO steps on a GPU.

Runs in a process of its own, reads the workload that `gpu_step_vs_trl.py` wrote, and writes its
results after every step. A step is made of the stage's own functions in their order. Two things
differ from a run: no completion ends early, and every second one of a group is right, so that both
trainers do the same work.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch

from benchmarks.gpu_mgpo import now
from benchmarks.gpu_peak import PeakWatch
from vibelite.algorithms.advantages import group_advantages, maxent_weight
from vibelite.models.activations import apply_activations
from vibelite.models.load import load_policy
from vibelite.models.policy import Policy
from vibelite.recipe.model_section import Training
from vibelite.recipe.stage_section import MGPOStage, Optimizer, Sampling
from vibelite.rollout.engine import RolloutEngine, SamplingSettings, generate
from vibelite.rollout.kv_memory import BatchSizes, engine_shape
from vibelite.rollout.transformers_engine import TransformersEngine
from vibelite.stages import mgpo
from vibelite.training.optim import PolicyOptimizer
from vibelite.types import Completion, Group, Problem, Verdict


def main(path: str) -> None:
    work = json.loads(Path(path).read_text())
    watch = PeakWatch()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    begun = now(device)
    trainer = make_trainer(work)
    result: dict[str, Any] = {
        "start_seconds": now(device) - begun,
        "dtype": str(trainer.policy.head.weight.dtype),
        "start": watch.take(),
        "steps": [],
    }
    for step in range(work["num_steps"]):
        result["steps"].append(run_step(trainer, work, step, device) | watch.take())
        Path(work["out"]).write_text(json.dumps(result))
    trainer.engine.close()
    watch.close()


def make_trainer(work: dict[str, Any]) -> mgpo.Trainer:
    """In the order in which the stage builds it: policy, engine, optimizer."""
    settings = dict(work["settings"])
    training = Training.model_validate(settings["training"])
    optimizer = Optimizer.model_validate({"lr": 1e-6, **settings["optimizer"]})
    count = len(work["prompts"]) * work["group_size"]
    sampling = Sampling(max_new_tokens=work["max_new_tokens"], max_sequences=count)
    stage = MGPOStage(
        kind="mgpo", num_steps=work["num_steps"], optimizer=optimizer, sampling=sampling,
        group_size=work["group_size"], tokens_per_micro_batch=settings["tokens_per_micro_batch"],
    )  # fmt: skip
    policy = load_policy(work["model"], dtype=training.dtype)
    apply_activations(policy.model, training)
    engine = make_engine(work, policy, count)
    updates = PolicyOptimizer(policy, optimizer, num_steps=stage.num_steps, training=training)
    return mgpo.Trainer(stage, cast(Any, None), policy, None, engine, updates)


def make_engine(work: dict[str, Any], policy: Policy, count: int) -> RolloutEngine:
    if work["engine"] == "transformers":
        return TransformersEngine(policy, stop_ids=(), max_sequences=count)
    from vibelite.rollout.vllm_engine import VLLMEngine
    from vibelite.rollout.vllm_start import VLLMSettings

    batch = BatchSizes(count, work["max_model_len"], 8192)
    shape = engine_shape(policy.model.config, policy.head.weight.dtype, batch)
    room = count * (work["max_model_len"] + 32) * shape.bytes_per_token
    settings = VLLMSettings(
        stop_ids=(), max_sequences=count, max_model_len=work["max_model_len"],
        kv_cache_bytes=room + (64 << 20),
        dtype=str(policy.head.weight.dtype).removeprefix("torch."),
        **work["settings"].get("vllm", {}),
    )  # fmt: skip
    return VLLMEngine(policy, settings)


def run_step(
    trainer: mgpo.Trainer, work: dict[str, Any], step: int, device: torch.device
) -> dict[str, Any]:
    times = [now(device)]
    trainer.engine.wake()
    times.append(now(device))
    settings = SamplingSettings(work["group_size"], work["max_new_tokens"])
    sampled = generate(trainer.engine, work["prompts"], settings, seed=step)
    times.append(now(device))
    trainer.engine.sleep()
    times.append(now(device))
    groups = make_groups(work["prompts"], sampled)
    advantages = [
        [maxent_weight(group.pass_rate, trainer.stage.maxent_lambda) * value for value in values]
        for group in groups
        for values in [group_advantages(group.rewards)]
    ]
    batches = mgpo.training_batches(trainer, groups, advantages)
    for batch in batches:
        mgpo.accumulate_gradient(trainer, batch, None, None)
    times.append(now(device))
    trainer.optimizer.step(step)
    trainer.optimizer.finish()
    times.append(now(device))
    trainer.engine.load_weights(step + 1)
    times.append(now(device))
    names = ("wake", "generate", "sleep", "gradient", "optimizer", "sync")
    spans = {name: end - begin for name, begin, end in zip(names, times, times[1:], strict=False)}
    tokens = sum(len(one.token_ids) for group in sampled for one in group)
    return {"seconds": times[-1] - times[0], "tokens": tokens, **spans}


def make_groups(
    prompts: Sequence[Sequence[int]], sampled: Sequence[Sequence[Completion]]
) -> list[Group]:
    return [
        Group(
            Problem(str(index), "all", ({"role": "user", "content": ""},), "", "exact"),
            tuple(prompt),
            tuple(completions),
            tuple(Verdict(place % 2, bool(place % 2)) for place in range(len(completions))),
        )
        for index, (prompt, completions) in enumerate(zip(prompts, sampled, strict=True))
    ]


if __name__ == "__main__":
    main(sys.argv[1])
