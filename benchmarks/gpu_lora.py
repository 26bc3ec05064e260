"""Peak memory and seconds of an update of a LoRA or QLoRA adapter on a 1.5B model.

    python -m benchmarks.gpu_lora [--out FILE.json] [--tokens 4096 16384] [--tiny]

Random weights of Qwen2.5-1.5B's exact dimensions in bfloat16, an adapter of rank 32 on every linear
map of the layers, AdamW. One sequence of T tokens goes through the stages' own
`accumulate_gradient`, SFT's or MGPO's, and the optimizer. Peak: torch's allocated bytes, everything
included. `floor_bytes`: what is held between updates and the layers' inputs, which checkpointing
keeps: no method with checkpoints on the GPU takes less. Seconds: medians after an update that makes
the optimizer's state. A kind that cannot run here is a row that says why.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_activations import QWEN_1_5B, TINY
from benchmarks.gpu_mgpo import completion_batch, peaks, reset_peak, trainer_of
from benchmarks.random_policy import now, random_policy
from benchmarks.row_report import COLUMNS, SaveRows, forget, rows_of, run_command
from vibelite.data.batching import TrainingSequence
from vibelite.models.activations import apply_activations
from vibelite.models.load import attach, default_device, quantise
from vibelite.recipe.model_section import Adapter, Training
from vibelite.recipe.stage_section import Optimizer, SFTStage
from vibelite.stages import mgpo, sft

TOKENS = (4096, 16384)
TINY_TOKENS = (64, 128)
KINDS = ("lora", "qlora")
STAGES = ("sft", "mgpo")
REPEATS = 3
TRAINING = Training(dtype="bfloat16", activations="checkpoint", mlp_tile_tokens=4096)


def measure(
    config: Mapping[str, Any] = QWEN_1_5B,
    *,
    tokens: Sequence[int] = TOKENS,
    training: Training = TRAINING,
    device: torch.device | None = None,
    save: SaveRows = forget,
) -> list[dict[str, Any]]:
    """One row per kind of adapter, stage and number of tokens; `save` gets them after each."""
    device = device or default_device()

    def row_maker(kind: str) -> Callable[[], Iterator[dict[str, Any]]]:
        adapter = Adapter.model_validate({"kind": kind})
        return lambda: measure_kind(config, adapter, tokens, training, device)

    return rows_of([({"kind": kind}, row_maker(kind)) for kind in KINDS], COLUMNS["lora"], save)


def measure_kind(
    config: Mapping[str, Any],
    adapter: Adapter,
    tokens: Sequence[int],
    training: Training,
    device: torch.device,
) -> Iterator[dict[str, Any]]:
    """The rows of one kind of adapter."""
    trainer = make_trainer(config, adapter, training, device)
    for stage in STAGES:
        for count in tokens:
            row = {"stage": stage, "tokens": count}
            yield row | measure_one(trainer, stage, config, count)


def make_trainer(
    config: Mapping[str, Any], adapter: Adapter, training: Training, device: torch.device
) -> mgpo.Trainer:
    """The stage's own trainer around random weights with an adapter."""
    policy = random_policy(config, dtype=getattr(torch, training.dtype), device=device)
    if adapter.kind == "qlora":
        quantise(policy.model, device)
    policy = attach(policy, adapter, start=Path("random"), seed=0)
    apply_activations(policy.model, training)
    return trainer_of(policy, Optimizer(kind="adamw", lr=1e-5), training)


def measure_one(
    trainer: mgpo.Trainer, stage: str, config: Mapping[str, Any], tokens: int
) -> dict[str, Any]:
    """Bytes and seconds of one update on one sequence."""
    policy, device = trainer.policy, trainer.policy.device
    update(trainer, stage, config, tokens)
    held = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    reset_peak(device)
    seconds = [update(trainer, stage, config, tokens) for _ in range(REPEATS)]
    itemsize = policy.head.weight.itemsize
    inputs = config["num_hidden_layers"] * config["hidden_size"] * tokens * itemsize
    return peaks(device) | {
        "held_bytes": held,
        "floor_bytes": held + inputs,
        "num_trained": sum(parameter.numel() for parameter in policy.trainable_parameters()),
        "gradient_seconds": statistics.median(gradient for gradient, _ in seconds),
        "update_seconds": statistics.median(rest for _, rest in seconds),
        "all_seconds": seconds,
    }


def update(
    trainer: mgpo.Trainer, stage: str, config: Mapping[str, Any], tokens: int
) -> tuple[float, float]:
    """One update; seconds of the gradient, and of the optimizer."""
    policy, device = trainer.policy, trainer.policy.device
    batch = completion_batch(policy, config["vocab_size"], tokens, device)
    start = now(device)
    if stage == "mgpo":
        mgpo.accumulate_gradient(trainer, batch, None, None)
    else:
        sequence = TrainingSequence(
            batch.input_ids.tolist(), int(batch.completion_mask.int().argmax())
        )
        sft.accumulate_gradient(policy, [sequence], sft_stage(trainer))
    middle = now(device)
    trainer.optimizer.step(0)
    trainer.optimizer.finish()
    return middle - start, now(device) - middle


def sft_stage(trainer: mgpo.Trainer) -> SFTStage:
    """An SFT stage whose sequences are never split."""
    return SFTStage(
        kind="sft", num_steps=1, checkpoint_every=1, optimizer=trainer.stage.optimizer,
        tokens_per_micro_batch=1 << 20,
    )  # fmt: skip


if __name__ == "__main__":
    run_command("lora", measure, {"config": TINY, "tokens": TINY_TOKENS})
