"""Peak memory and seconds of a full-parameter MGPO update of a 1.5B model, under a cap of memory.

    python -m benchmarks.gpu_mgpo [--out FILE.json] [--tiny]

Random weights of Qwen2.5-1.5B's exact dimensions; one completion of T tokens (a 64-token prompt
before it) goes through `stages.mgpo.accumulate_gradient` and the optimizer, after an update on a
few tokens that makes the optimizer's state. The cap holds for everything that torch takes from
the GPU; `context_bytes`, what CUDA itself takes beside it, is within the cap too. Generation is not
in here: weights alone are shared with it, and the planner adds its cache.
A setting that does not fit is a row with `out_of_memory`, and longer completions are not tried; a
case that fails is a row with `failed`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks.gpu_activations import QWEN_1_5B, TINY
from benchmarks.random_policy import bare_trainer, now, random_policy
from benchmarks.row_report import COLUMNS, SaveRows, forget, release, rows_of, run_command
from vibelite.data.batching import TrainingSequence, pack
from vibelite.models.activations import apply_activations
from vibelite.models.load import default_device
from vibelite.models.policy import Policy
from vibelite.recipe.model_section import Training
from vibelite.recipe.stage_section import MGPOStage, Optimizer, Sampling
from vibelite.stages import mgpo
from vibelite.telemetry.memory import take_peak_bytes
from vibelite.training.optim import PolicyOptimizer
from vibelite.types import TokenBatch

TOKENS = (4096, 16384, 32768, 40960)
PROMPT_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Case:
    """A card and what is chosen on it."""

    cap_gb: int
    optimizer: str
    dtype: str
    gradient_dtype: str
    activations: str
    mlp_tile_tokens: int


CASES = (
    Case(24, "adamw_cpu", "bfloat16", "bfloat16", "checkpoint_offload", 4096),
    Case(80, "adamw", "bfloat16", "float32", "checkpoint", 4096),
    Case(24, "adamw_8bit", "float32", "bfloat16", "checkpoint_offload", 4096),
    Case(80, "adamw", "float32", "float32", "checkpoint", 4096),
)


def measure(
    config: Mapping[str, Any] = QWEN_1_5B,
    *,
    tokens: Sequence[int] = TOKENS,
    cases: Sequence[Case] = CASES,
    device: torch.device | None = None,
    save: SaveRows = forget,
) -> list[dict[str, Any]]:
    """One row per case and number of tokens; `save` gets them after each."""
    device = device or default_device()

    def row_maker(case: Case) -> Callable[[], Iterator[dict[str, Any]]]:
        return lambda: measure_case(config, case, chosen_lengths(case, tokens), device)

    rows = rows_of([(asdict(case), row_maker(case)) for case in cases], COLUMNS["mgpo"], save)
    set_cap(device, None)
    return rows


def chosen_lengths(case: Case, tokens: Sequence[int]) -> Sequence[int]:
    """Float32 products take 5 to 8 times as long, so there the shortest and the longest do."""
    return sorted({tokens[0], tokens[-1]}) if case.dtype == "float32" else tokens


def measure_case(
    config: Mapping[str, Any], case: Case, tokens: Sequence[int], device: torch.device
) -> Iterator[dict[str, Any]]:
    """A row per number of tokens, until one does not fit."""
    settings = {"context_bytes": set_cap(device, case.cap_gb)}
    trainer = make_trainer(config, case, device)
    for update, count in enumerate((2 * PROMPT_TOKENS, *tokens)):
        batch = completion_batch(trainer.policy, config["vocab_size"], count, device)
        row = settings | {"tokens": count} | measure_one(trainer, batch, update, device)
        if update > 0 or "out_of_memory" in row:
            yield row
        if "out_of_memory" in row:
            return


def set_cap(device: torch.device, gigabytes: int | None) -> int:
    """Caps what torch may take; the bytes that CUDA's context takes, 0 on a CPU."""
    if device.type == "cpu":
        return 0
    torch.zeros(1, device=device)
    release()
    free, total = torch.cuda.mem_get_info(device)
    context_bytes = total - free - torch.cuda.memory_reserved(device)
    share = 1.0 if gigabytes is None else min(1.0, (gigabytes * 1e9 - context_bytes) / total)
    torch.cuda.set_per_process_memory_fraction(share)
    return context_bytes


def make_trainer(config: Mapping[str, Any], case: Case, device: torch.device) -> mgpo.Trainer:
    """The stage's own trainer around random weights; it has no engine and no run."""
    training = Training.model_validate(
        {
            "dtype": case.dtype,
            "gradient_dtype": case.gradient_dtype,
            "activations": case.activations,
            "mlp_tile_tokens": case.mlp_tile_tokens,
        }
    )
    optimizer = Optimizer.model_validate({"kind": case.optimizer, "lr": 1e-6})
    policy = random_policy(config, dtype=getattr(torch, case.dtype), device=device)
    apply_activations(policy.model, training)
    return trainer_of(policy, optimizer, training)


def trainer_of(policy: Policy, optimizer: Optimizer, training: Training) -> mgpo.Trainer:
    """The stage's own trainer around a policy, whose sequences are never split."""
    stage = MGPOStage(
        kind="mgpo", num_steps=1, optimizer=optimizer, tokens_per_micro_batch=1 << 20,
        sampling=Sampling(max_new_tokens=16),
    )  # fmt: skip
    updates = PolicyOptimizer(policy, optimizer, num_steps=1000, training=training)
    return bare_trainer(stage, policy, updates)


def measure_one(
    trainer: mgpo.Trainer, batch: TokenBatch, update: int, device: torch.device
) -> dict[str, Any]:
    """Peak bytes and seconds of one update on one completion."""
    reset_peak(device)
    try:
        start = now(device)
        mgpo.accumulate_gradient(trainer, batch, None, None)
        middle = now(device)
        trainer.optimizer.step(update)
        trainer.optimizer.finish()
    except torch.OutOfMemoryError:
        return {"out_of_memory": True}
    seconds = {"gradient_seconds": middle - start, "update_seconds": now(device) - middle}
    return seconds | peaks(device)


def completion_batch(
    policy: Policy, vocab_size: int, tokens: int, device: torch.device
) -> TokenBatch:
    """One sequence of `tokens` random tokens with an advantage."""
    generator = torch.Generator().manual_seed(tokens)
    ids = torch.randint(vocab_size, (tokens,), generator=generator).tolist()
    prompt = min(PROMPT_TOKENS, tokens // 2)
    completion = tokens - prompt
    sequence = TrainingSequence(
        token_ids=ids,
        num_prompt_tokens=prompt,
        token_weight=1 / completion,
        advantage=1.0,
        sampler_logprobs=(-12.0,) * completion,
    )
    return pack([sequence], device)


def reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        take_peak_bytes()


def peaks(device: torch.device) -> dict[str, int]:
    """What tensors took at most, and with torch's cache; on a CPU, resident memory."""
    if device.type == "cuda":
        return {
            "allocated_bytes": torch.cuda.max_memory_allocated(device),
            "peak_bytes": torch.cuda.max_memory_reserved(device),
        }
    return {"peak_bytes": take_peak_bytes()}


if __name__ == "__main__":
    run_command("mgpo", measure, {"config": TINY, "tokens": (64, 128)})
