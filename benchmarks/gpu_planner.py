"""What `vibelite plan` predicts on a GPU against what is measured there: the table of
planner_check.py for large models, adapters, vLLM and up to 32K tokens.

    python -m benchmarks.gpu_planner --gpu h200-141gb [NAME ...] [--out FILE.json] [--tiny]

Random weights of the exact dimensions of Qwen2.5-0.5B and -1.5B in bfloat16. All configurations run
in one process, one after the other, through the stages' own functions (planner_steps.py). The first
step of each, which makes the optimizer's state, is not timed. A configuration that failed is a row
with `failed`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from benchmarks.gpu_activations import QWEN_1_5B
from benchmarks.gpu_activations import TINY as TINY_CONFIG
from benchmarks.planner_check import PROMPT_TOKENS, Case, compare, kept_rows, mgpo, report, sft
from benchmarks.planner_steps import mgpo_steps, sft_steps
from benchmarks.random_policy import NoText, random_policy
from benchmarks.row_report import exit_code, failure_row, release, row_saver
from vibelite.models.activations import apply_activations
from vibelite.models.load import attach, default_device, quantise
from vibelite.models.policy import Policy
from vibelite.recipe.model_section import PretrainedModel
from vibelite.recipe.schema import Recipe
from vibelite.recipe.stage_section import MGPOStage, SFTStage
from vibelite.rollout.kv_memory import BatchSizes, device_memory, engine_shape, kv_cache_bytes
from vibelite.rollout.vllm_engine import VLLMEngine
from vibelite.rollout.vllm_start import VLLMSettings
from vibelite.stages.engines import state_bytes
from vibelite.telemetry.memory import bytes_held
from vibelite.training.optim import PolicyOptimizer

QWEN_0_5B: Mapping[str, Any] = {
    "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
    "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True,
    "max_position_embeddings": 131072,
}  # fmt: skip
SMALL = PretrainedModel(source="pretrained", path="Qwen/Qwen2.5-0.5B")
LARGE = PretrainedModel(source="pretrained", path="Qwen/Qwen2.5-1.5B")
CONFIGS = {SMALL.path: QWEN_0_5B, LARGE.path: QWEN_1_5B}
BATCHED_TOKENS = 8192
VLLM: Mapping[str, Any] = {"rollout": {"engine": "vllm"}}


def training(
    activations: str = "checkpoint", *, tile: int = 0, gradients: str = "bfloat16"
) -> Mapping[str, Any]:
    return {
        "dtype": "bfloat16", "activations": activations, "mlp_tile_tokens": tile,
        "gradient_dtype": gradients,
    }  # fmt: skip


def adapter(kind: str, **sections: Any) -> Mapping[str, Any]:
    return {"adapter": {"kind": kind}, **sections}


CASES = (
    Case("0.5B SFT, 1K", SMALL, sft(32, 1024, 16384), training("keep")),
    Case("0.5B SFT, checkpoint, 4K", SMALL, sft(8, 4096, 16384), training()),
    Case("0.5B SFT, 8-bit, 2K", SMALL, sft(16, 2048, 16384, kind="adamw_8bit"), training()),
    Case(
        "0.5B SFT, adamw_cpu, 4K", SMALL, sft(8, 4096, 16384, kind="adamw_cpu"),
        training(gradients="float32"),
    ),
    Case("0.5B LoRA, 1K", SMALL, sft(32, 1024, 16384), training(), sections=adapter("lora")),
    Case("1.5B SFT, checkpoint, 4K", LARGE, sft(8, 4096, 16384), training()),
    Case("1.5B SFT, tiles, 32K", LARGE, sft(2, 32768, 32768), training(tile=4096)),
    Case(
        "1.5B SFT, 8-bit, offload, 16K", LARGE, sft(2, 16384, 16384, kind="adamw_8bit"),
        training("checkpoint_offload"),
    ),
    Case(
        "1.5B SFT, adamw_cpu, offload, tiles, 32K", LARGE,
        sft(2, 32768, 32768, kind="adamw_cpu"),
        training("checkpoint_offload", tile=4096, gradients="float32"),
    ),
    Case("1.5B LoRA, 8K", LARGE, sft(4, 8192, 16384), training(), sections=adapter("lora")),
    Case("1.5B QLoRA, 8K", LARGE, sft(4, 8192, 16384), training(), sections=adapter("qlora")),
    Case(
        "1.5B QLoRA, offload, tiles, 32K", LARGE, sft(2, 32768, 32768),
        training("checkpoint_offload", tile=4096), sections=adapter("qlora"),
    ),
    Case(
        "0.5B MGPO, vLLM, 16 x 16 x 512", SMALL, mgpo(16, 16, 512, 32768), training(),
        sections=VLLM,
    ),
    Case(
        "1.5B MGPO, vLLM, 8 x 8 x 1024", LARGE, mgpo(8, 8, 1024, 32768), training(), sections=VLLM,
    ),
    Case(
        "1.5B LoRA MGPO, vLLM, 8 x 8 x 512", LARGE, mgpo(8, 8, 512, 32768), training(),
        sections=adapter("lora", **VLLM),
    ),
)  # fmt: skip
TINY_CASES = (
    Case("tiny SFT", SMALL, sft(4, 64, 128), training()),
    Case("tiny LoRA", SMALL, sft(4, 64, 128), training(), sections=adapter("lora")),
    Case("tiny MGPO", SMALL, mgpo(2, 4, 16, 1024), training()),
)


def measure(case: Case, config: Mapping[str, Any]) -> dict[str, Any]:
    """What `planner_steps` reports, of a model of these sizes in this process."""
    recipe = case.recipe()
    (stage,) = recipe.stages
    assert isinstance(stage, SFTStage | MGPOStage)
    device = default_device()
    policy = make_policy(recipe, config, device)
    before = bytes_held() - sum(p.nbytes for p in policy.model.parameters())
    optimizer = PolicyOptimizer(
        policy, stage.optimizer, num_steps=stage.num_steps, training=recipe.training
    )
    found: dict[str, Any] = {"before_bytes": before}
    if isinstance(stage, SFTStage):
        steps = sft_steps(stage, policy, optimizer, PROMPT_TOKENS)
    elif recipe.rollout.engine == "vllm":
        begun = time.perf_counter()
        engine = start(recipe, stage, policy)
        found["engine_start_seconds"] = time.perf_counter() - begun
        try:
            steps = mgpo_steps(stage, policy, optimizer, PROMPT_TOKENS, engine)
        finally:
            engine.close()
    else:
        steps = mgpo_steps(stage, policy, optimizer, PROMPT_TOKENS)
    peak = max(size for step in steps for size in step["peak_bytes"].values())
    return found | {"peak_bytes": peak, "steps": steps}


def make_policy(recipe: Recipe, config: Mapping[str, Any], device: torch.device) -> Policy:
    """As `load_for_training` makes it, with random weights and no tokenizer."""
    policy = random_policy(config, dtype=getattr(torch, recipe.training.dtype), device=device)
    policy = replace(policy, tokenizer=cast(Any, NoText()))
    if recipe.adapter is not None:
        if recipe.adapter.kind == "qlora":
            quantise(policy.model, device)
        policy = attach(policy, recipe.adapter, start=Path("random"), seed=0)
    apply_activations(policy.model, recipe.training)
    return policy


def start(recipe: Recipe, stage: MGPOStage, policy: Policy) -> VLLMEngine:
    """The engine as the stage builds it, without a token that ends a completion."""
    window = stage.sampling.max_new_tokens + PROMPT_TOKENS
    most = min(stage.sampling.max_sequences, stage.problems_per_step * stage.group_size)
    dtype = policy.head.weight.dtype
    shape = engine_shape(policy.model.config, dtype, BatchSizes(most, window, BATCHED_TOKENS))
    free, total = device_memory(policy.device)
    free -= state_bytes(recipe, policy, stage.optimizer)
    settings = VLLMSettings(
        stop_ids=(), max_sequences=most, max_model_len=window,
        kv_cache_bytes=kv_cache_bytes(shape, free_bytes=free, total_bytes=total),
        dtype=str(dtype).removeprefix("torch."), max_batched_tokens=BATCHED_TOKENS,
    )  # fmt: skip
    return VLLMEngine(policy, settings)


def rows_of(cases: Sequence[Case], gpu: str, tiny: bool) -> Iterator[dict[str, Any]]:
    """One row per configuration, after it has run."""
    for case in cases:
        assert isinstance(case.model, PretrainedModel)
        try:
            found = measure(case, TINY_CONFIG if tiny else CONFIGS[case.model.path])
            row = compare(case, found, gpu)
            row |= {key: found[key] for key in ("engine_start_seconds",) if key in found}
        except Exception as error:  # the others are worth having, and the exit code tells
            row = {"name": case.name} | failure_row(error)
        release()
        yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="Only cases whose name contains one of these.")
    parser.add_argument("--gpu", default="h200-141gb", help="The listed GPU of this machine.")
    parser.add_argument("--out", type=Path, help="Written after each; keeps others.")
    parser.add_argument("--tiny", action="store_true", help="tiny models on any processor")
    arguments = parser.parse_args()
    cases = [
        case for case in (TINY_CASES if arguments.tiny else CASES)
        if not arguments.names or any(name in case.name for name in arguments.names)
    ]  # fmt: skip
    save = row_saver(arguments.out)
    rows = kept_rows(arguments.out, cases)
    for row in rows_of(cases, arguments.gpu, arguments.tiny):
        rows.append(row)
        print(row["name"], row.get("failed") or report([row]).splitlines()[-3], flush=True)
        save(rows)
    print(report([row for row in rows if "failed" not in row]))
    sys.exit(exit_code(rows))


if __name__ == "__main__":
    main()
