"""Peak memory of every phase of a stage, by part: a sum of what is known to exist at that moment.

What a parameter costs is in optimizer_memory.py, what a token costs in activation_memory.py; here
they meet with the fused head's workspace, the key-value cache and the context.
"""

from __future__ import annotations

from dataclasses import dataclass

from vibelite.planning.activation_memory import activation_bytes
from vibelite.planning.model_shape import ModelShape
from vibelite.planning.optimizer_memory import (
    HOST_BUFFER_BYTES,
    UPDATE_BUFFER_BYTES,
    bytes_per_parameter,
)
from vibelite.planning.time_model import DTYPE_BYTES, kv_bytes_per_token
from vibelite.planning.workload import Assumptions, StageWork
from vibelite.recipe.model_section import Adapter, Training
from vibelite.recipe.stage_section import Optimizer

GIB = 1 << 30
FLOAT32 = 4
# The head's chunks on a GPU (kernels/): dz of 256 MiB in the backward pass.
HEAD_WORKSPACE_BYTES = 256 << 20
# Sampling sorts and sums a row of float32 weights and one of float64 sums per sequence.
SAMPLING_BYTES_PER_LOGIT = 4 + 4 + 8
# NF4 with double quantisation: 4 bits and 0.127 bits of scales a weight (arXiv 2305.14314, 3).
NF4_BYTES = (4 + 0.127) / 8


@dataclass(frozen=True, slots=True)
class PhaseMemory:
    """What one phase of a stage holds, in bytes."""

    stage: str
    phase: str
    """train or generate."""
    parts: dict[str, float]
    """On the GPU."""
    host: float = 0.0
    """Pinned or ordinary memory of the host, beside the program's own."""

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def stage_memory(
    shape: ModelShape,
    work: StageWork,
    training: Training,
    assume: Assumptions,
    *,
    optimizer: Optimizer | None = None,
    adapter: Adapter | None = None,
) -> list[PhaseMemory]:
    """The phases of one stage: generate where it samples, train where it has an `optimizer`."""
    context = assume.context_gib * GIB
    resident, host = resident_bytes(shape, work, training, optimizer, adapter)
    phases = []
    if work.completions:
        element = DTYPE_BYTES[training.dtype]
        tokens = work.rows * (assume.prompt_tokens + work.max_new_tokens)
        parts = {name: size for name, size in resident.items() if name != "gradients"}
        parts["kv_cache"] = tokens * kv_bytes_per_token(shape, element)
        logits = work.rows * shape.vocab_size
        parts["sampling"] = logits * (element + SAMPLING_BYTES_PER_LOGIT)
        phases.append(PhaseMemory(work.stage, "generate", parts | {"context": context}, host))
    if optimizer is not None:
        parts = dict(resident)
        parts |= training_bytes(shape, work.micro_batch_tokens, training)
        if training.activations == "checkpoint_offload":
            host += parts.pop("offloaded")
        phases.append(PhaseMemory(work.stage, "train", parts | {"context": context}, host))
    return phases


def resident_bytes(
    shape: ModelShape,
    work: StageWork,
    training: Training,
    optimizer: Optimizer | None,
    adapter: Adapter | None,
) -> tuple[dict[str, float], float]:
    """Bytes on the GPU of everything as large as the model, and on the host."""
    element = DTYPE_BYTES[training.dtype]
    weights = element * shape.num_parameters
    trained = shape.num_parameters
    dtype, extra = training.dtype, 0.0
    if adapter is not None:
        trained = adapter_parameters(shape, adapter)
        if adapter.kind == "qlora":
            layers = shape.layer_parameters * shape.num_layers
            weights = layers * NF4_BYTES + (shape.num_parameters - layers) * element
        extra, dtype = trained * FLOAT32, "float32"
    if optimizer is None:
        return {"weights": weights}, 0.0
    each = bytes_per_parameter(optimizer.kind, dtype, training.gradient_dtype)
    parts = {
        "weights": weights * (2 if work.holds_reference else 1) + extra,
        "gradients": each.gradients * trained,
        "optimizer": (each.masters + each.moments + each.pageable) * trained,
    }
    if optimizer.kind == "adamw_cpu":
        largest = shape.vocab_size * shape.hidden_size if adapter is None else 0
        parts["gradients"] = element * largest
        return parts, each.host * trained + HOST_BUFFER_BYTES
    if training.gradient_dtype == "bfloat16":
        parts["optimizer"] += UPDATE_BUFFER_BYTES
    return parts, 0.0


def training_bytes(shape: ModelShape, tokens: int, training: Training) -> dict[str, float]:
    """Activations and head of one micro-batch of `tokens` tokens, by part."""
    element = DTYPE_BYTES[training.dtype]
    activations = activation_bytes(
        shape, tokens, training.activations, training.mlp_tile_tokens, element
    )
    # Hidden states of the trained tokens, their gradient in float32 and in the weights' type.
    head = HEAD_WORKSPACE_BYTES + tokens * shape.hidden_size * (FLOAT32 + 2 * element)
    return {**activations, "head": head}


def adapter_parameters(shape: ModelShape, adapter: Adapter) -> int:
    """rank x (inputs + outputs) of every linear map that gets an adapter."""
    heads = shape.query_size
    kv_heads = shape.key_size
    widths = {
        "q_proj": shape.hidden_size + heads,
        "k_proj": shape.hidden_size + kv_heads,
        "v_proj": shape.hidden_size + kv_heads,
        "o_proj": heads + shape.hidden_size,
        "gate_proj": shape.hidden_size + shape.mlp_size,
        "up_proj": shape.hidden_size + shape.mlp_size,
        "down_proj": shape.mlp_size + shape.hidden_size,
    }
    return adapter.rank * shape.num_layers * sum(widths.get(name, 0) for name in adapter.targets)
