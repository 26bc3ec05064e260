"""Seconds of training and sampling on GPUs, from counted work and published rates (a roofline; own
model, except where a source is named). What a processor takes is in
cpu_time.py.

Training is products with weights, attention, and between them the traffic of activations through
memory; decoding is memory traffic and vLLM's own work. A token passes forward with 2 operations per
weight and backward with 4 (arXiv 2001.08361, 2.1); what is recomputed counts again. The rates in
`Assumptions` are those of one H200 (`benchmarks/gpu_planner.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vibelite.planning.activation_memory import activation_bytes
from vibelite.planning.devices import GIGA, Gpu
from vibelite.planning.memory_model import StageConfig, adapter_parameters, kv_bytes_per_token
from vibelite.planning.model_shape import ModelShape
from vibelite.planning.optimizer_memory import BYTES, bytes_per_parameter
from vibelite.planning.workload import Assumptions, Work
from vibelite.recipe.model_section import Training


@dataclass(frozen=True, slots=True)
class StageSeconds:
    """Expected seconds of one stage, by what is done."""

    generate: float
    train: float
    optimizer: float
    communicate: float = 0.0

    @property
    def total(self) -> float:
        return self.generate + self.train + self.optimizer + self.communicate


def stage_seconds(config: StageConfig, work: Work, gpu: Gpu) -> StageSeconds:
    """Expected seconds of a stage; its sequences are shared evenly by the GPUs. What GPUs that hold
    an engine together send each other at every token is not counted, nor keys and values that
    several of them hold twice.
    """
    shape, training, assumed = config.shape, config.training, config.assumed
    # Each GPU of an engine reads its part of weights and cache, and all of them take every step.
    step = assumed.decode_step_seconds * config.tensor_parallel
    generate = generation_seconds(
        shape, work, gpu, replace(assumed, decode_step_seconds=step), BYTES[training.dtype]
    )
    num_bytes = communicated_bytes(config, config.num_gpus, passes_of_a_rank(work, config))
    return StageSeconds(
        generate=generate / config.num_gpus,
        train=training_seconds(config, work, gpu) / config.num_gpus,
        optimizer=work.num_updates * update_seconds(config, gpu),
        communicate=work.num_updates * num_bytes / (assumed.link_gb_per_second * GIGA),
    )


def training_seconds(config: StageConfig, work: Work, gpu: Gpu) -> float:
    """Seconds of all forward and backward passes of a stage on one GPU."""
    shape, training, assumed = config.shape, config.training, config.assumed
    has_adapter = config.adapter is not None
    products = product_flops(shape, work, training, has_adapter=has_adapter)
    attention = attention_flops(shape, work, training)
    kept = layer_bytes(shape, BYTES[training.dtype])
    moved = assumed.layer_traffic * kept
    if has_adapter:
        moved += assumed.adapter_traffic * BYTES[training.dtype] * map_widths(shape)
    times = work.trained_tokens * passes(shape, work, training) + work.scored_tokens
    rates = products / assumed.matmul_efficiency + attention / assumed.attention_efficiency
    return rates / gpu.bf16_flops + times * moved / gpu.bytes_per_second


def product_flops(
    shape: ModelShape, work: Work, training: Training, *, has_adapter: bool = False
) -> float:
    """Operations of all products with weights in a stage.

    Layers: 2 x weights x `passes` a token. Head: 6 H V for a token that reaches it, none
    recomputed. Frozen weights have no gradient, which is a third of both without recomputation. A
    token that is scored alone passes forward once.
    """
    frozen = 1 if has_adapter else 0
    layers = 2 * shape.layer_parameters * shape.num_layers
    head = 2 * shape.hidden_size * shape.vocab_size * work.head_share
    trained = (passes(shape, work, training) - frozen) * layers + (3 - frozen) * head
    return work.trained_tokens * trained + work.scored_tokens * (layers + head)


def attention_flops(shape: ModelShape, work: Work, training: Training) -> float:
    """Operations of attention in a stage: a token sees half its sequence on average, 4 x heads x
    head_size operations each, forward once and backward 2.5 times (flash attention recomputes its
    scores), and once more where layers are computed again.
    """
    recomputed = 0 if training.activations == "keep" else 1
    seen = 4 * shape.query_size * work.trained_length / 2 * shape.num_layers
    return seen * ((3.5 + recomputed) * work.trained_tokens + work.scored_tokens)


def layer_bytes(shape: ModelShape, dtype_bytes: int) -> float:
    """Bytes that all layers keep of one token for the backward pass."""
    return activation_bytes(shape, 1, "keep", 0, dtype_bytes)["kept"]


def map_widths(shape: ModelShape) -> int:
    """Inputs and outputs of all linear maps of the layers, for one token."""
    queries = 2 * (shape.hidden_size + shape.query_size)
    keys = 2 * (shape.hidden_size + shape.key_size)
    return shape.num_layers * (queries + keys + 3 * (shape.hidden_size + shape.mlp_size))


def passes(shape: ModelShape, work: Work, training: Training) -> float:
    """Products of a layer's weights and its tokens, in forward passes: one forward and two
    backward; one more where all is computed again, and one more of the MLP where only that is, in
    tiles.
    """
    if training.activations != "keep":
        return 4.0
    if not is_tiled(work, training):
        return 3.0
    return 3.0 + 3 * shape.hidden_size * shape.mlp_size / shape.layer_parameters


def is_tiled(work: Work, training: Training) -> bool:
    """Whether micro-batches are larger than a tile of the MLP."""
    return 0 < training.mlp_tile_tokens < work.micro_batch_tokens


def generation_seconds(
    shape: ModelShape, work: Work, gpu: Gpu, assumed: Assumptions, weight_bytes: int
) -> float:
    """Seconds to sample `work.completions`, `work.rows` at a time, on one GPU.

    Every step reads the weights once and the cache of every running row; rows that end are
    replaced, so that about completions x length / rows steps are taken. vLLM's scheduler works on
    each row in turn, and the GPU waits for it. Reading the prompts is arithmetic.
    """
    if not work.completions:
        return 0.0
    length = assumed.length_fraction * work.max_new_tokens
    rows = min(work.rows, work.completions)
    steps = work.completions * length / rows
    cache = rows * (assumed.prompt_tokens + length / 2) * kv_bytes_per_token(shape, weight_bytes)
    weights = shape.num_parameters * weight_bytes
    decode = (weights + cache) / (gpu.bytes_per_second * assumed.decode_efficiency)
    prefill = 2 * shape.num_parameters * work.prompts * assumed.prompt_tokens
    prefill_seconds = prefill / (gpu.bf16_flops * assumed.matmul_efficiency)
    row = assumed.decode_row_seconds if work.is_paged else 0.0
    return steps * (decode + assumed.decode_step_seconds + rows * row) + prefill_seconds


def update_seconds(config: StageConfig, gpu: Gpu) -> float:
    """Seconds of one update of one GPU's part of the trained parameters.

    AdamW reads and writes master and moments, reads gradient twice (for its norm too) and writes
    16-bit weights, at the memory's bandwidth; adamw_cpu moves the same through the host's memory,
    and gradients and weights over PCIe (`assumed.host_gb_per_second` for both; on one H100 machine
    with 16 processors 1.54e9 parameters took 1.23 s: 43 GB/s).
    """
    if config.optimizer is None:
        return 0.0
    training, kind = config.training, config.optimizer.kind
    trained = trained_parameters(config)
    each = bytes_per_parameter(kind, training.dtype, training.gradient_dtype)
    if kind == "adamw_cpu":
        moved = (
            2 * (each.host - BYTES[training.gradient_dtype])
            + 2 * BYTES[training.gradient_dtype]
            + 2 * BYTES[training.dtype]
        )
        return trained / config.num_gpus * moved / (config.assumed.host_gb_per_second * GIGA)
    state = each.masters or each.weights
    moved = 2 * (state + each.moments + each.pageable) + 2 * each.gradients + each.weights
    return trained / config.num_gpus * moved / gpu.bytes_per_second


def trained_parameters(config: StageConfig) -> int:
    """All weights, or those of the adapter."""
    if config.adapter is None:
        return config.shape.num_parameters
    return adapter_parameters(config.shape, config.adapter)


def passes_of_a_rank(work: Work, config: StageConfig) -> float:
    """Micro-batches of one update that each GPU runs, on average."""
    if not work.num_updates:
        return 0.0
    return max(1.0, work.num_micro_batches / work.num_updates / config.num_gpus)


def communicated_bytes(config: StageConfig, num_gpus: int, num_passes: float = 1.0) -> float:
    """Bytes that each of n GPUs sends per update, in rings (Patarasuk and Yuan, Bandwidth optimal
    all-reduce algorithms, 2009: each sends (n - 1) / n of the data). 0 for one GPU.

    Where each holds the whole weights (`training/shared_adamw.py`), a reduce-scatter of the
    gradients and an all-gather of the updated weights:

        (n - 1) / n x (gradient bytes + weight bytes)

    Where weights are cut (`ranks/full_sharding.py`), in each of `num_passes` micro-batches the
    layers are gathered forward and backward, the embeddings once, and the gradients are scattered;
    then the weights are gathered whole:

        (n - 1) / n x (num_passes x (2 x layers + embeddings + gradients) + weights)

    Not in it, and small beside it: completions and their diagnostics, about 30 bytes a token.
    Seconds are these bytes at `Assumptions.link_gb_per_second`; nothing is hidden behind the
    backward pass.
    """
    share = (num_gpus - 1) / num_gpus
    training, shape = config.training, config.shape
    gradient, weight = BYTES[training.gradient_dtype], BYTES[training.dtype]
    trained = trained_parameters(config)
    if config.sharding == "optimizer":
        return share * (gradient + weight) * trained
    layers = shape.layer_parameters * shape.num_layers
    each_pass = weight * (2 * layers + shape.embedding_parameters) + gradient * trained
    return share * (num_passes * each_pass + weight * trained)
