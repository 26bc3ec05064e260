"""Seconds of a stage on a processor.

A GPU is busy with arithmetic; a processor spends as much time on pages of fresh memory, on weights
that pass through products of few rows, and on calls of single operators. Each has a rate in
devices.py, and each rate is that of one plain operation (`benchmarks/planner_rates.py`), none
fitted to steps. `benchmarks/planner_check.py` holds the result against measured steps.
"""

from __future__ import annotations

from vibelite.planning.devices import CpuRates, Products
from vibelite.planning.memory_model import StageConfig
from vibelite.planning.model_shape import ModelShape
from vibelite.planning.optimizer_memory import BYTES, FLOAT32, bytes_per_parameter
from vibelite.planning.time_model import StageSeconds, is_tiled, passes
from vibelite.planning.workload import Work
from vibelite.recipe.model_section import Training

# Muon: five Newton-Schulz steps, in bfloat16 (torch.optim.Muon).
MUON_STEPS = 5


def cpu_stage_seconds(
    config: StageConfig, work: Work, rates: CpuRates, matmul_precision: str
) -> StageSeconds:
    """Expected seconds of a stage on one thread."""
    products = products_of(config.training, matmul_precision)
    return StageSeconds(
        generate=generate_seconds(config, work, rates, products),
        train=train_seconds(config, work, rates, products),
        optimizer=optimizer_seconds(config, work, rates),
    )


def products_of(training: Training, matmul_precision: str) -> Products:
    """How a recipe's products are multiplied; float16 is not sped up by any processor."""
    if training.dtype == "bfloat16":
        return "bfloat16"
    return "float32" if matmul_precision == "highest" else "medium"


def layer_bytes_written(shape: ModelShape, work: Work, training: Training) -> float:
    """Bytes that operators write per trained token and layer.

    Counted in the allocations that torch makes for transformers' Qwen2 layer and attention in
    buckets, with H hidden, I MLP, q all queries, k all keys: 33H + 8I + 20q + 21k numbers forward
    and backward, of them `scored_bytes_written` forward. That pass again where layers are
    checkpointed, and 30H + 8.5I (of them the MLP's own pass again) where the MLP is tiled.
    """
    h, i, q, k = 33.0, 8.0, 20.0, 21.0
    tiled = is_tiled(work, training)
    if tiled:
        h, i = h + 30, i + 8.5
    if training.activations != "keep":
        h, i, q, k = h + 8, i + (0 if tiled else 4), q + 9.5, k + 8.5
    numbers = h * shape.hidden_size + i * shape.mlp_size + q * shape.query_size
    return BYTES[training.dtype] * (numbers + k * shape.key_size)


def scored_bytes_written(shape: ModelShape, training: Training) -> float:
    """The same for a token that passes forward alone: 8H + 4I + 9.5q + 8.5k numbers."""
    numbers = 8 * shape.hidden_size + 4 * shape.mlp_size
    numbers += 9.5 * shape.query_size + 8.5 * shape.key_size
    return BYTES[training.dtype] * numbers


def train_seconds(config: StageConfig, work: Work, rates: CpuRates, products: Products) -> float:
    """Seconds of all forward and backward passes of a stage.

    Products at their rate, 2 operations per weight and token forward, 4 backward; every micro-batch
    passes the weights through them three times. Attention and written bytes at theirs.
    """
    shape, training, rate = config.shape, config.training, rates.of(products)
    recomputed = 0 if training.activations == "keep" else 1
    tokens, scored = work.trained_tokens, work.scored_tokens
    headed = (3 * tokens + scored) * work.head_share
    matrices = shape.num_layers * shape.layer_parameters
    head = shape.vocab_size * shape.hidden_size
    each = passes(shape, work, training)
    # Operands of the head that are not float32 are widened.
    head_products: Products = "float32" if products == "bfloat16" else products
    flops = 2 * matrices * (each * tokens + scored)
    attention = 2 * shape.query_size * work.trained_length * shape.num_layers
    attention_flops = attention * ((3.5 + recomputed) * tokens + scored)
    written = shape.num_layers * (
        tokens * layer_bytes_written(shape, work, training)
        + scored * scored_bytes_written(shape, training)
    )
    passed = BYTES[training.dtype] * each * matrices * work.num_micro_batches
    visits = work.num_micro_batches * shape.num_layers * (1 + recomputed / 3)
    return (
        flops / rate.flops
        + 2 * head * headed / rates.of(head_products).flops
        + attention_flops / rate.attention_flops
        + written / rates.written_bytes_per_second
        + passed / rate.weight_bytes_per_second
        + headed / 3 * shape.vocab_size * rates.logit_seconds
        + visits * rates.layer_seconds
    )


def generate_seconds(config: StageConfig, work: Work, rates: CpuRates, products: Products) -> float:
    """Seconds to sample `work.completions`, `work.rows` at a time.

    Rows that end leave the batch, so that every row pays for its own length; what a step costs
    whatever its rows is paid for the longest of each batch.
    """
    if not work.completions:
        return 0.0
    shape, assumed, rate = config.shape, config.assumed, rates.of(products)
    length = assumed.length_fraction * work.max_new_tokens
    batches = max(1.0, work.completions / work.rows)
    row_steps = work.completions * length
    steps = batches * length
    matrices = shape.num_layers * shape.layer_parameters
    weights = matrices + shape.vocab_size * shape.hidden_size
    seen = assumed.prompt_tokens + length / 2
    cache = row_steps * seen * 2 * shape.num_layers * shape.key_size * FLOAT32
    prompt_tokens = work.prompts * assumed.prompt_tokens
    return (
        2 * (weights * row_steps + matrices * prompt_tokens) / rate.flops
        + (steps + batches) * FLOAT32 * weights / rate.weight_bytes_per_second
        + cache / rates.read_bytes_per_second
        + row_steps * shape.vocab_size * rates.sampling_seconds
        + (steps + batches) * shape.num_layers * rates.decode_layer_seconds
    )


def optimizer_seconds(config: StageConfig, work: Work, rates: CpuRates) -> float:
    """Seconds of all updates: AdamW reads weight, gradient and two moments and writes three of
    them, the norm reads the gradient once more and clipping reads and writes it; Muon multiplies.
    """
    optimizer, shape, training = config.optimizer, config.shape, config.training
    if optimizer is None:
        return 0.0
    each = bytes_per_parameter(optimizer.kind, training.dtype, training.gradient_dtype)
    moved = 2 * (FLOAT32 + each.moments) + 4 * FLOAT32
    seconds = shape.num_parameters * moved / rates.read_bytes_per_second
    if optimizer.kind == "muon":
        seconds += muon_flops(shape) / rates.bfloat16.flops
    return work.num_updates * seconds


def muon_flops(shape: ModelShape) -> float:
    """Operations of one update: for a matrix m x n, m <= n, five times X X^T, its square, and both
    times X: 4 m^2 n + 2 m^3.
    """
    h, q, k, i = shape.hidden_size, shape.query_size, shape.key_size, shape.mlp_size
    sizes = [(h, q), (h, q), (h, k), (h, k), (h, i), (h, i), (h, i)]
    pairs = [(min(pair), max(pair)) for pair in sizes]
    return MUON_STEPS * shape.num_layers * sum(4 * m * m * n + 2 * m**3 for m, n in pairs)
