"""VibeLite's side of `gpu_step_vs_trl.py`: seconds, tokens and memory of MGPO steps on a GPU.

Runs in a process of its own, reads the workload that `gpu_step_vs_trl.py` wrote, and writes its
results after every step. A step is that of `random_policy.py`, so that both trainers do the same
work.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.gpu_peak import PeakWatch
from benchmarks.random_policy import bare_trainer, mgpo_step, now
from vibelite.models.activations import apply_activations
from vibelite.models.load import default_device, load_policy
from vibelite.models.policy import Policy
from vibelite.recipe.model_section import Training
from vibelite.recipe.stage_section import MGPOStage, Optimizer, Sampling
from vibelite.rollout.engine import RolloutEngine
from vibelite.rollout.kv_memory import BatchSizes, engine_shape
from vibelite.rollout.transformers_engine import TransformersEngine
from vibelite.stages import mgpo
from vibelite.training.optim import PolicyOptimizer


def main(path: str) -> None:
    work = json.loads(Path(path).read_text())
    watch = PeakWatch()
    device = default_device()
    begun = now(device)
    trainer = make_trainer(work)
    result: dict[str, Any] = {
        "start_seconds": now(device) - begun,
        "dtype": str(trainer.policy.head.weight.dtype),
        "start": watch.take(),
        "steps": [],
    }
    for step in range(work["num_steps"]):
        result["steps"].append(run_step(trainer, work["prompts"], step) | watch.take())
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
    return bare_trainer(stage, policy, updates, engine)


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


def run_step(trainer: mgpo.Trainer, prompts: list[list[int]], step: int) -> dict[str, Any]:
    """Seconds of the step and of its parts, and tokens sampled."""
    device, spans = trainer.policy.device, {}

    @contextmanager
    def part(name: str) -> Iterator[None]:
        begun = now(device)
        yield
        spans[name] = now(device) - begun

    begun = now(device)
    tokens = mgpo_step(trainer, prompts, step, part)
    return {"seconds": now(device) - begun, "tokens": tokens, **spans}


if __name__ == "__main__":
    main(sys.argv[1])
