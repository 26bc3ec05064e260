"""Seconds of training and sampling from counted work and a GPU's rates (a roofline; own model).

Training is bound by arithmetic, decoding by memory traffic. A token passes forward with 2
operations per weight and backward with 4 (arXiv 2001.08361, 2.1); what is recomputed counts again.
"""

from __future__ import annotations

from dataclasses import dataclass

from vibelite.planning.gpus import Gpu
from vibelite.planning.model_shape import ModelShape
from vibelite.planning.workload import Assumptions, StageWork
from vibelite.recipe.model_section import Training

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class StageSeconds:
    """Expected seconds of one stage, by what is done."""

    generate: float
    train: float
    optimizer: float

    @property
    def total(self) -> float:
        return self.generate + self.train + self.optimizer


def training_flops(shape: ModelShape, tokens: float, length: float, training: Training) -> float:
    """Operations to train on `tokens` tokens in sequences of mean `length`.

    Layers: (6, or 8 with recomputed activations) x weights. Attention: a token sees length / 2
    others on average, 4 x heads x head_size operations each, forward once and backward 2.5 times
    (flash attention recomputes its scores). Head: 6 H V, none recomputed.
    """
    recomputed = 0 if training.activations == "keep" else 1
    layers = (6 + 2 * recomputed) * shape.layer_parameters * shape.num_layers
    seen = 4 * shape.query_size * length / 2 * shape.num_layers
    head = 6 * shape.hidden_size * shape.vocab_size
    return tokens * (layers + (3.5 + recomputed) * seen + head)


def generation_seconds(
    shape: ModelShape, work: StageWork, gpu: Gpu, assume: Assumptions, weight_bytes: int
) -> float:
    """Seconds to sample `work.completions`, `work.rows` at a time.

    Every step reads the weights once and the cache of every running row; rows that end are
    replaced, so that about completions x length / rows steps are taken. Reading the prompts is
    arithmetic.
    """
    if not work.completions:
        return 0.0
    length = assume.length_fraction * work.max_new_tokens
    rows = min(work.rows, work.completions)
    steps = work.completions * length / rows
    cache = rows * (assume.prompt_tokens + length / 2) * kv_bytes_per_token(shape, weight_bytes)
    weights = shape.num_parameters * weight_bytes
    decode = (weights + cache) / (gpu.bytes_per_second * assume.decode_efficiency)
    prefill = 2 * shape.num_parameters * work.prompts * assume.prompt_tokens
    prefill_seconds = prefill / (gpu.bf16_flops * assume.training_efficiency)
    return steps * (decode + assume.decode_step_seconds) + prefill_seconds


def kv_bytes_per_token(shape: ModelShape, element_bytes: int) -> int:
    """Keys and values of one token in every layer."""
    return 2 * shape.num_layers * shape.key_size * element_bytes


def stage_seconds(
    shape: ModelShape, work: StageWork, training: Training, gpu: Gpu, assume: Assumptions
) -> StageSeconds:
    """Expected seconds of a stage. The optimizer reads and writes its 16 bytes per weight once a
    step at the GPU's bandwidth.
    """
    flops = training_flops(shape, work.trained_tokens, work.trained_length, training)
    return StageSeconds(
        generate=generation_seconds(shape, work, gpu, assume, DTYPE_BYTES[training.dtype]),
        train=flops / (gpu.bf16_flops * assume.training_efficiency),
        optimizer=work.num_steps * 28 * shape.num_parameters / gpu.bytes_per_second,
    )
