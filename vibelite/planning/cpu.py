"""A processor to plan for: its measured rates, and the seconds of a stage on it.

A GPU is busy with arithmetic; a processor spends as much time on pages of fresh memory, on weights
that pass through products of few rows, and on calls of single operators. Each has a rate here, and
each rate is that of one plain operation (`benchmarks/planner_rates.py`), none fitted to steps.
`benchmarks/planner_check.py` holds the result against measured steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vibelite.planning.memory_model import Setting
from vibelite.planning.model_shape import ModelShape
from vibelite.planning.optimizer_memory import BYTES, bytes_per_parameter
from vibelite.planning.time_model import is_tiled, passes
from vibelite.planning.workload import StageWork
from vibelite.recipe.model_section import Training

FLOAT32 = 4
Products = Literal["float32", "medium", "bfloat16"]
# Muon: five Newton-Schulz steps, in bfloat16 (torch.optim.Muon).
MUON_STEPS = 5


@dataclass(frozen=True, slots=True)
class ProductRates:
    """One way to multiply matrices: in float32, in float32 by way of bfloat16 (`matmul_precision:
    medium`), or in bfloat16.
    """

    flops: float
    """Operations a second of a product of large matrices."""
    weight_bytes_per_second: float
    """At which a large weight passes through a product of few rows."""
    attention_flops: float
    """Operations a second of causal attention, forward and backward."""


@dataclass(frozen=True, slots=True)
class CpuRates:
    """What one thread does in a second, or the seconds it takes."""

    float32: ProductRates
    medium: ProductRates
    bfloat16: ProductRates
    written_bytes_per_second: float
    """Results of an operator on single numbers, into memory that the system has just given."""
    read_bytes_per_second: float
    """Reading memory from end to end."""
    layer_seconds: float
    """Forward and backward of a layer without arithmetic: what calling its operators takes."""
    decode_layer_seconds: float
    """The same for one token while decoding."""
    logit_seconds: float
    """One logit of the fused loss beside the products."""
    sampling_seconds: float
    """One logit of the sampler."""

    def of(self, products: Products) -> ProductRates:
        match products:
            case "float32":
                return self.float32
            case "medium":
                return self.medium
            case "bfloat16":
                return self.bfloat16


# One thread of a shared x86-64 machine with AVX-512 and AMX (Intel Xeon), torch 2.13: medians over
# the steps of an earlier benchmarks/planner_check.py, in a quieter hour than that of its table.
RATES = CpuRates(
    float32=ProductRates(1.9e11, 5.0e9, 4.5e10),
    medium=ProductRates(6.0e11, 9.6e9, 2.7e10),
    bfloat16=ProductRates(1.4e12, 6.2e9, 4.6e10),
    written_bytes_per_second=2.2e9,
    read_bytes_per_second=1.2e10,
    layer_seconds=1.0e-3,
    decode_layer_seconds=2.3e-4,
    logit_seconds=5.0e-9,
    sampling_seconds=4.0e-9,
)


@dataclass(frozen=True, slots=True)
class Cpu:
    """This machine without a GPU, or with another processor's rates."""

    name: str
    memory_bytes: int
    rates: CpuRates


def products_of(training: Training, matmul_precision: str) -> Products:
    """How a recipe's products are multiplied; float16 is not sped up by any processor."""
    if training.dtype == "bfloat16":
        return "bfloat16"
    return "float32" if matmul_precision == "highest" else "medium"


def layer_bytes_written(shape: ModelShape, work: StageWork, training: Training) -> float:
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


def train_seconds(setting: Setting, work: StageWork, rates: CpuRates, products: Products) -> float:
    """Seconds of all forward and backward passes of a stage.

    Products at their rate, 2 operations per weight and token forward, 4 backward; every micro-batch
    passes the weights through them three times. Attention and written bytes at theirs.
    """
    shape, training, rate = setting.shape, setting.training, rates.of(products)
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


def generate_seconds(
    setting: Setting, work: StageWork, rates: CpuRates, products: Products
) -> float:
    """Seconds to sample `work.completions`, `work.rows` at a time.

    Rows that end leave the batch, so that every row pays for its own length; what a step costs
    whatever its rows is paid for the longest of each batch.
    """
    if not work.completions:
        return 0.0
    shape, assume, rate = setting.shape, setting.assume, rates.of(products)
    length = assume.length_fraction * work.max_new_tokens
    batches = max(1.0, work.completions / work.rows)
    row_steps = work.completions * length
    steps = batches * length
    matrices = shape.num_layers * shape.layer_parameters
    weights = matrices + shape.vocab_size * shape.hidden_size
    seen = assume.prompt_tokens + length / 2
    cache = row_steps * seen * 2 * shape.num_layers * shape.key_size * FLOAT32
    prompt_tokens = work.prompts * assume.prompt_tokens
    return (
        2 * (weights * row_steps + matrices * prompt_tokens) / rate.flops
        + (steps + batches) * FLOAT32 * weights / rate.weight_bytes_per_second
        + cache / rates.read_bytes_per_second
        + row_steps * shape.vocab_size * rates.sampling_seconds
        + (steps + batches) * shape.num_layers * rates.decode_layer_seconds
    )


def optimizer_seconds(setting: Setting, work: StageWork, rates: CpuRates) -> float:
    """Seconds of all updates: AdamW reads weight, gradient and two moments and writes three of
    them, the norm reads the gradient once more and clipping reads and writes it; Muon multiplies.
    """
    optimizer, shape, training = setting.optimizer, setting.shape, setting.training
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
