"""Seconds of training and sampling, from counted work and published rates (a roofline; own model,
except where a source is named).

Training is products with weights, attention, and between them the traffic of activations through
memory; decoding is memory traffic and vLLM's own work. A token passes forward with 2 operations per
weight and backward with 4 (arXiv 2001.08361, 2.1); what is recomputed counts again. The rates in
`Assumptions` are those of one H200 (`benchmarks/gpu_planner.py`). A processor has the CPU_ factors
instead, and computes while it decodes.
"""

from __future__ import annotations

from dataclasses import dataclass

from vibelite.planning.activation_memory import activation_bytes
from vibelite.planning.devices import GIGA, Device
from vibelite.planning.memory_model import (
    StageConfig,
    bytes_per_parameter,
    kv_bytes_per_token,
    trained_parameters,
)
from vibelite.planning.model_shape import BYTES, ModelShape
from vibelite.planning.workload import Work
from vibelite.recipe.model_section import Training

# Rates of a processor's products over its float32 rate: by way of bfloat16 (`matmul_precision:
# medium`), in bfloat16, and of attention, which no type speeds up.
CPU_MEDIUM, CPU_BFLOAT16, CPU_ATTENTION = 2.5, 7.0, 0.3
# `layer_traffic` of a processor; it and the rate of attention are fitted to the steps of
# `benchmarks/planner_check.py`.
CPU_TRAFFIC = 4.5


@dataclass(frozen=True, slots=True)
class StageSeconds:
    """Expected seconds of one stage, by what is done; `around` its steps vLLM starts once, and each
    model that is read or kept passes.
    """

    generate: float
    train: float
    optimizer: float
    communicate: float = 0.0
    around: float = 0.0

    @property
    def steps(self) -> float:
        return self.generate + self.train + self.optimizer + self.communicate

    @property
    def total(self) -> float:
        return self.steps + self.around


def stage_seconds(config: StageConfig, work: Work, device: Device) -> StageSeconds:
    """Expected seconds of a stage, whose sequences the GPUs share evenly. What GPUs that hold an
    engine together send each other is not counted, nor keys and values that they hold twice.
    """
    assumed = config.assumed
    sent = communicated_bytes(config, passes_of_a_rank(work, config))
    num_bytes = config.shape.num_parameters * BYTES[config.training.dtype]
    moved = (work.num_models + work.kept_models) * num_bytes
    start = assumed.engine_start_seconds if work.is_paged else 0.0
    return StageSeconds(
        generate=generation_seconds(config, work, device) / config.num_gpus,
        train=training_seconds(config, work, device) / config.num_gpus,
        optimizer=work.num_updates * update_seconds(config, device),
        communicate=work.num_updates * sent / (assumed.link_gb_per_second * GIGA),
        around=start + moved / (assumed.model_gb_per_second * GIGA),
    )


def product_rate(config: StageConfig, device: Device) -> float:
    if not device.is_cpu:
        return device.flops * config.assumed.matmul_efficiency
    if config.training.dtype == "bfloat16":
        return device.flops * CPU_BFLOAT16
    return device.flops * (1.0 if config.matmul_precision == "highest" else CPU_MEDIUM)


def training_seconds(config: StageConfig, work: Work, device: Device) -> float:
    """Seconds of all forward and backward passes of a stage on one device."""
    shape, assumed, training = config.shape, config.assumed, config.training
    attention = CPU_ATTENTION if device.is_cpu else assumed.attention_efficiency
    moved = (CPU_TRAFFIC if device.is_cpu else assumed.layer_traffic) * layer_bytes(shape, training)
    if config.adapter is not None:
        moved += assumed.adapter_traffic * BYTES[training.dtype] * map_widths(shape)
    times = work.trained_tokens * passes(config, work) + work.scored_tokens
    return (
        product_flops(config, work) / product_rate(config, device)
        + attention_flops(config, work) / (device.flops * attention)
        + times * moved / device.bytes_per_second
    )


def product_flops(config: StageConfig, work: Work) -> float:
    """Operations of all products with weights in a stage.

    Layers: 2 x weights x `passes` a token. Head: 6 H V for a token that reaches it, none
    recomputed. Frozen weights have no gradient, which is a third of both without recomputation. A
    token that is scored alone passes forward once.
    """
    shape, frozen = config.shape, 0 if config.adapter is None else 1
    layers = 2 * shape.layer_parameters * shape.num_layers
    head = 2 * shape.hidden_size * shape.vocab_size * work.head_share
    trained = (passes(config, work) - frozen) * layers + (3 - frozen) * head
    return work.trained_tokens * trained + work.scored_tokens * (layers + head)


def attention_flops(config: StageConfig, work: Work) -> float:
    """Operations of attention in a stage: a token sees half its sequence on average, 4 x heads x
    head_size operations each, forward once and backward 2.5 times (flash attention recomputes its
    scores), and once more where layers are computed again.
    """
    recomputed = 0 if config.training.activations == "keep" else 1
    seen = 4 * config.shape.query_size * work.trained_length / 2 * config.shape.num_layers
    return seen * ((3.5 + recomputed) * work.trained_tokens + work.scored_tokens)


def layer_bytes(shape: ModelShape, training: Training) -> float:
    return activation_bytes(shape, Training(dtype=training.dtype), 1)["kept"]


def map_widths(shape: ModelShape) -> int:
    attention = 4 * shape.hidden_size + 2 * (shape.query_size + shape.key_size)
    return shape.num_layers * (attention + 3 * (shape.hidden_size + shape.mlp_size))


def passes(config: StageConfig, work: Work) -> float:
    """Products of a layer's weights and its tokens, in forward passes: one forward and two
    backward; one more where all is computed again, and one more of the MLP where only that is, in
    tiles.
    """
    shape, training = config.shape, config.training
    if training.activations != "keep":
        return 4.0
    if not 0 < training.mlp_tile_tokens < work.micro_batch_tokens:
        return 3.0
    return 3.0 + 3 * shape.hidden_size * shape.mlp_size / shape.layer_parameters


def generation_seconds(config: StageConfig, work: Work, device: Device) -> float:
    """Seconds to sample `work.completions`, `work.rows` at a time, on one device.

    Every step reads the weights once and the cache of every running row; rows that end are
    replaced, so that about completions x length / rows steps are taken. vLLM's scheduler works on
    each row in turn, and the GPU waits for it. Reading the prompts is arithmetic. Each GPU of an
    engine reads its part of weights and cache, and all of them take every step.
    """
    if not work.completions:
        return 0.0
    shape, assumed, element = config.shape, config.assumed, BYTES[config.training.dtype]
    length = assumed.length_fraction * work.max_new_tokens
    rows = min(work.rows, work.completions)
    steps = work.completions * length / rows
    cache = rows * (assumed.prompt_tokens + length / 2) * kv_bytes_per_token(shape, element)
    decode = (shape.num_parameters * element + cache) / device.bytes_per_second
    if device.is_cpu:
        decode += 2 * shape.num_parameters * rows / product_rate(config, device)
    fixed = assumed.decode_step_seconds * config.tensor_parallel
    fixed += rows * assumed.decode_row_seconds if work.is_paged else 0.0
    prompts = 2 * shape.num_parameters * work.prompts * assumed.prompt_tokens
    reading = prompts / product_rate(config, device)
    return steps * (decode / assumed.decode_efficiency + fixed) + reading


def update_seconds(config: StageConfig, device: Device) -> float:
    """Seconds of one update of one device's part of the trained parameters.

    AdamW reads and writes master and moments, reads gradient twice (for its norm too) and writes
    16-bit weights, at the memory's bandwidth; adamw_cpu moves the same through the host's memory,
    and gradients and weights over PCIe (`assumed.host_gb_per_second` for both; on one H100 machine
    with 16 processors 1.54e9 parameters took 1.23 s: 43 GB/s).
    """
    if config.optimizer is None:
        return 0.0
    training, kind = config.training, config.optimizer.kind
    if kind == "adamw_cpu" and device.is_cpu:
        kind = "adamw"
    each = bytes_per_parameter(kind, training.dtype, training.gradient_dtype)
    if kind == "adamw_cpu":
        gradient = BYTES[training.gradient_dtype]
        moved = 2 * (each.host - gradient) + 2 * gradient + 2 * BYTES[training.dtype]
        rate = config.assumed.host_gb_per_second * GIGA
    else:
        state = (each.masters or each.weights) + each.moments + each.pageable
        moved = 2 * state + 2 * each.gradients + each.weights
        rate = device.bytes_per_second
    trained = trained_parameters(config.shape, config.adapter)
    return trained / config.num_gpus * moved / rate


def passes_of_a_rank(work: Work, config: StageConfig) -> float:
    if not work.num_updates:
        return 0.0
    return max(1.0, work.num_micro_batches / work.num_updates / config.num_gpus)


def communicated_bytes(config: StageConfig, num_passes: float = 1.0) -> float:
    """Bytes that each of n GPUs sends per update, in rings (Patarasuk and Yuan, Bandwidth optimal
    all-reduce algorithms, 2009: each sends (n - 1) / n of the data). 0 for one GPU.

    Where each holds the whole weights (`training/shared_adamw.py`), a reduce-scatter of the
    gradients and an all-gather of the updated weights. Where weights are cut
    (`ranks/full_sharding.py`), in each of `num_passes` micro-batches the layers are gathered
    forward and backward, the embeddings once, and the gradients are scattered; then the weights are
    gathered whole. Completions and their diagnostics, about 30 bytes a token, are not in it;
    nothing is taken to hide behind the backward pass.
    """
    share = (config.num_gpus - 1) / config.num_gpus
    training, shape = config.training, config.shape
    gradient, weight = BYTES[training.gradient_dtype], BYTES[training.dtype]
    trained = trained_parameters(shape, config.adapter)
    if config.sharding == "optimizer":
        return share * (gradient + weight) * trained
    layers = shape.layer_parameters * shape.num_layers
    each_pass = weight * (2 * layers + shape.embedding_parameters) + gradient * trained
    return share * (num_passes * each_pass + weight * trained)
