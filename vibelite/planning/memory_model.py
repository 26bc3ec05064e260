"""Peak memory of every phase of a stage, by part: what exists at its worst moment.

What a parameter costs is in optimizer_memory.py, what a token costs in activation_memory.py. A
processor has one memory for device and host, in which pages that nothing has written do not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vibelite.planning.activation_memory import (
    CPU_LOGITS,
    GPU_LOGITS,
    activation_bytes,
    bytes_before_backward,
    gpu_head_bytes,
    head_bytes,
)
from vibelite.planning.model_shape import ModelShape
from vibelite.planning.optimizer_memory import (
    BYTES,
    FLOAT32,
    HOST_BUFFER_BYTES,
    UPDATE_BUFFER_BYTES,
    bytes_per_parameter,
)
from vibelite.planning.workload import Assumptions, Work
from vibelite.recipe.model_section import Adapter, Training
from vibelite.recipe.schema import Recipe
from vibelite.recipe.stage_section import Optimizer
from vibelite.units import GIB

# Beside the logits, the sampler holds weights in float32 and their sums in float64.
SAMPLING_BYTES_PER_LOGIT = 4 + 8
# The cache's buffers at first have room for so many tokens behind the prompt, and grow by half.
CACHE_ROOM, CACHE_GROWTH = 64, 1.5
# NF4 with double quantisation: 4 bits and 0.127 bits of scales a weight (arXiv 2305.14314, 3).
NF4_BYTES = (4 + 0.127) / 8
# Of a GPU's memory, for weights and gradients of a rank that holds them whole; the rest is for its
# part of the optimizer's state, activations and the cache. With float32 gradients that is up to
# 1.6e9 parameters on 24 GiB and 5.7e9 on 80 GiB.
LARGEST_WHOLE_SHARE = 0.4

Sharding = Literal["optimizer", "full"]


@dataclass(frozen=True, slots=True)
class StageConfig:
    """What decides a stage's memory beside its work."""

    shape: ModelShape
    training: Training
    assumed: Assumptions
    optimizer: Optimizer | None = None
    """None = the stage does not train."""
    adapter: Adapter | None = None
    is_cpu: bool = False
    matmul_precision: str = "highest"
    num_gpus: int = 1
    sharding: Sharding = "optimizer"
    tensor_parallel: int = 1
    """GPUs that hold one engine together."""
    engine_weights: float = 0.0
    """Bytes on each GPU of an engine's own weights; 0 = it samples from the trainer's."""
    """Where those are while training: 0 = on the GPU, 1 = in the host's memory, 2 = nowhere."""


@dataclass(frozen=True, slots=True)
class PhaseMemory:
    """What one phase of a stage holds, in bytes."""

    stage: str
    phase: str
    """train or generate."""
    moment: str
    """Of the phase, when it holds most."""
    parts: dict[str, float]
    """On the device."""
    host: float = 0.0
    """Memory of the host, beside the program's own."""

    @property
    def total(self) -> float:
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True)
class ModelBytes:
    """Everything as large as the model, in bytes; `host` is not on the device."""

    weights: float
    """While it samples."""
    gradients: float
    optimizer: float
    update: float
    """For a moment, while the optimizer works."""
    host: float
    training_weights: float | None = None
    """Where they are cut over the GPUs: what is gathered at a time. None = as while it samples."""


def stage_memory(config: StageConfig, work: Work) -> list[PhaseMemory]:
    """The phases of one stage: generate where it samples, train where it has an optimizer."""
    model = model_bytes(config, work)
    phases = []
    if work.completions:
        phases.append(_worst(config, work, "generate", generating_moments(config, work, model)))
    if config.optimizer is not None:
        phases.append(_worst(config, work, "train", training_moments(config, work, model)))
    return phases


def _worst(
    config: StageConfig, work: Work, phase: str, moments: Mapping[str, dict[str, float]]
) -> PhaseMemory:
    """The moment that holds most, with the context; what is on the host of a GPU apart."""
    assumed = config.assumed
    context = GIB * (assumed.program_gib if config.is_cpu else assumed.context_gib)
    found = []
    for moment, parts in moments.items():
        held = {**parts, "context": context}
        host = 0.0 if config.is_cpu else held.pop("host", 0.0)
        found.append(PhaseMemory(work.stage, phase, moment, held, host))
    return max(found, key=lambda one: one.total)


def generating_moments(
    config: StageConfig, work: Work, model: ModelBytes
) -> dict[str, dict[str, float]]:
    """Bytes by part when the cache is fullest.

    The optimizer's state stays where it is; vLLM is given what is left, at most what all its rows
    can fill. Per row keys and values of prompt and completion, on a GPU with the room that
    transformers' buffers have. The prompts' own pass holds their keys, values and the widest
    tensors of one layer. GPUs that hold an engine together share its heads evenly, but for keys and
    values at least one each; the rest is counted whole.
    """
    shape, element = config.shape, BYTES[config.training.dtype]
    prompt = config.assumed.prompt_tokens
    length = prompt + work.max_new_tokens
    room = prompt + CACHE_ROOM
    while room < length:
        room *= CACHE_GROWTH
    per_token = kv_bytes_per_token(shape, element) / min(config.tensor_parallel, shape.num_kv_heads)
    resident = {"weights": model.weights, "optimizer": model.optimizer, "host": model.host}
    if config.engine_weights:
        resident["engine"] = config.engine_weights
    logits = work.rows * shape.vocab_size * (element + SAMPLING_BYTES_PER_LOGIT)
    widest = 2 * shape.hidden_size + 3 * shape.mlp_size
    read = work.prompts_at_once * prompt * element * widest
    cached = length if config.is_cpu or work.is_paged else room
    return {
        "sampling": resident | {"kv_cache": work.rows * cached * per_token, "sampling": logits},
        "reading prompts": resident
        | {"kv_cache": work.prompts_at_once * prompt * per_token, "activations": read},
    }


def training_moments(
    config: StageConfig, work: Work, model: ModelBytes
) -> dict[str, dict[str, float]]:
    """Bytes by part at the moments of a step that can hold most.

    `head`: the forward pass has been through all layers. `backward` begins, with the last layer.
    `last gradient`: it ends, all gradients exist and those of the embedding twice. Gradients exist
    in the first two if an earlier micro-batch of the step has left them.
    """
    shape, training, tokens = config.shape, config.training, work.micro_batch_tokens
    element = BYTES[training.dtype]
    arguments = (shape, tokens, training.activations, training.mlp_tile_tokens, element)
    buckets = {"in_buckets": config.is_cpu or training.dtype == "float32"}
    backward = activation_bytes(*arguments, **buckets)
    forward = bytes_before_backward(*arguments, **buckets)
    offloaded = backward.pop("offloaded", 0.0)
    forward.pop("offloaded", None)
    if config.is_cpu and offloaded:
        # Copied back when it is wanted, so one less is held.
        backward["kept"] /= 2
        forward["kept"] /= 2
    trained_head = config.adapter is None
    head = _head(config, int(tokens * work.head_share), trained_head)
    held = head.pop("held", 0.0)
    weights = model.weights if model.training_weights is None else model.training_weights
    resident = {"weights": weights, "optimizer": model.optimizer}
    if work.completions and config.engine_weights and config.is_cpu:
        resident["engine"] = config.engine_weights  # on a GPU it sleeps
    host = model.host + offloaded
    before = model.gradients if work.accumulates else 0.0
    # The embedding's own gradient, and its sum with the head's before it joins what is there.
    matrix = element * shape.vocab_size * shape.hidden_size if trained_head else 0
    embedding = matrix * (2 if work.accumulates and shape.tied else 1)
    kept_by_one = backward["kept"] / shape.num_layers + backward["work"]
    return {
        "head": resident
        | {"gradients": before, "activations": sum(forward.values())}
        | {"head": sum(head.values()) + held, "host": host},
        "backward": resident
        | {"gradients": before, "activations": sum(backward.values()), "head": held, "host": host},
        "last gradient": resident
        | {"gradients": model.gradients, "activations": kept_by_one, "head": held + embedding}
        | {"host": model.host},
        "update": resident
        | {"gradients": model.gradients, "update": model.update, "host": model.host},
    }


def _head(config: StageConfig, tokens: int, is_trained: bool) -> dict[str, float]:
    """The fused head's bytes for `tokens` trained tokens, by part; `held` stays for a while."""
    element = BYTES[config.training.dtype]
    if config.is_cpu or config.training.dtype != "bfloat16":
        rows, block = CPU_LOGITS if config.is_cpu else GPU_LOGITS
        rows = min(rows, tokens * config.shape.vocab_size)
        logits = rows + 2 * min(block, rows)
        parts = head_bytes(config.shape, tokens, element, logits=logits)
    else:
        parts = gpu_head_bytes(config.shape, tokens)
    if not is_trained:
        parts |= {"gradient": 0.0, "held": 0.0}
    return parts


def model_bytes(config: StageConfig, work: Work) -> ModelBytes:
    """Bytes of everything as large as the model.

    Where several GPUs share the optimizer each holds its part of masters and moments; under full
    sharding float32 masters, gradients and moments are all cut, and in training the embeddings and
    two layers, with the gradients of one, are whole at a time (not yet measured on GPUs).
    """
    shape, training = config.shape, config.training
    element = BYTES[training.dtype]
    weights, trained = element * shape.num_parameters, shape.num_parameters
    if config.adapter is not None:
        if config.adapter.kind == "qlora":
            layers = shape.layer_parameters * shape.num_layers
            weights = layers * NF4_BYTES + (shape.num_parameters - layers) * element
        trained = adapter_parameters(shape, config.adapter)
        weights += trained * element
    if config.optimizer is None:
        return ModelBytes(weights, 0.0, 0.0, 0.0, 0.0)
    if work.holds_reference:
        weights *= 2
    if config.sharding == "full":
        cut = FLOAT32 * trained / config.num_gpus
        gathered = element * (shape.embedding_parameters + 3 * shape.layer_parameters)
        if work.holds_reference:
            gathered += weights / 2
        return ModelBytes(weights, cut, 3 * cut, 0.0, 0.0, gathered)
    kind = config.optimizer.kind
    each = bytes_per_parameter(kind, training.dtype, training.gradient_dtype)
    state = (each.masters + each.moments + each.pageable) * trained
    if kind == "muon" and config.adapter is None:
        others = bytes_per_parameter("adamw", training.dtype, training.gradient_dtype)
        state += (others.moments - each.moments) * shape.embedding_parameters
    if kind != "adamw_cpu":
        widened = 0.0 if training.gradient_dtype == "float32" else UPDATE_BUFFER_BYTES
        update = min(FLOAT32 * trained, widened)
        return ModelBytes(weights, each.gradients * trained, state / config.num_gpus, update, 0.0)
    if config.is_cpu:
        # Float32 weights are their own masters, and nothing is copied.
        host = (each.host - (FLOAT32 if training.dtype == "float32" else 0)) * trained
        gradients = FLOAT32 if training.gradient_dtype == "float32" else 2
        return ModelBytes(weights, gradients * trained, host - gradients * trained, 0.0, 0.0)
    largest = element * shape.vocab_size * shape.hidden_size if config.adapter is None else 0
    return ModelBytes(weights, largest, 0.0, 0.0, each.host * trained + HOST_BUFFER_BYTES)


def kv_bytes_per_token(shape: ModelShape, element_bytes: int) -> int:
    """Keys and values of one token in every layer."""
    return 2 * shape.num_layers * shape.key_size * element_bytes


def adapter_parameters(shape: ModelShape, adapter: Adapter) -> int:
    """rank x (inputs + outputs) of every linear map that gets an adapter."""
    widths = {
        "q_proj": shape.hidden_size + shape.query_size,
        "k_proj": shape.hidden_size + shape.key_size,
        "v_proj": shape.hidden_size + shape.key_size,
        "o_proj": shape.query_size + shape.hidden_size,
        "gate_proj": shape.hidden_size + shape.mlp_size,
        "up_proj": shape.hidden_size + shape.mlp_size,
        "down_proj": shape.mlp_size + shape.hidden_size,
    }
    return adapter.rank * shape.num_layers * sum(widths.get(name, 0) for name in adapter.targets)


def chosen_sharding(
    recipe: Recipe, num_parameters: int, *, num_gpus: int, memory_bytes: int | None
) -> Sharding:
    """What `parallel.sharding: auto` means for `num_gpus` ranks with so much memory each; None = on
    a processor, where all ranks have the same memory.
    """
    sharding = recipe.parallel.sharding
    if num_gpus == 1:
        return "optimizer"
    if sharding != "auto":
        return sharding
    if recipe.adapter is not None or memory_bytes is None:
        return "optimizer"
    training = recipe.training
    whole = (BYTES[training.dtype] + BYTES[training.gradient_dtype]) * num_parameters
    return "full" if whole > LARGEST_WHOLE_SHARE * memory_bytes else "optimizer"
