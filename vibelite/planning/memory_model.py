"""Peak memory of every phase of a stage, by part: what exists at its worst moment.

What a token costs is in activation_memory.py. A processor has one memory for device and host, in
which pages that nothing has written do not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vibelite.planning.activation_memory import (
    CPU_LOGITS,
    GPU_LOGITS,
    activation_bytes,
    gpu_head_bytes,
    head_bytes,
)
from vibelite.planning.model_shape import BYTES, FLOAT32, ModelShape
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
# Two 8-bit moments, and a float32 scale for each 256 entries of each (bitsandbytes 0.50).
BYTES_8BIT_MOMENTS = 2 * (1 + 4 / 256)
# adamw_cpu: pinned buffers between host and device, four of 32 MiB in each direction.
HOST_BUFFER_BYTES = 8 * (32 << 20)
# The other kinds: float32 copies of bfloat16 gradients while they are used, a bucket at a time.
UPDATE_BUFFER_BYTES = 4 << 26

Sharding = Literal["optimizer", "full"]


@dataclass(frozen=True, slots=True)
class ParameterBytes:
    """Bytes per trained parameter: on the device weights, gradients from the first backward pass of
    a step to its update, float32 `masters` of 16-bit weights, moments; `pageable` moments that CUDA
    keeps there as long as they fit; the `host` memory's.
    """

    weights: float
    gradients: float = 0.0
    masters: float = 0.0
    moments: float = 0.0
    pageable: float = 0.0
    host: float = 0.0

    @property
    def device(self) -> float:
        """On the device during an update when the pageable part is not there."""
        return self.weights + self.gradients + self.masters + self.moments


def bytes_per_parameter(kind: str, dtype: str, gradient_dtype: str) -> ParameterBytes:
    """What one trained parameter costs under an optimizer and a precision; a frozen one costs its
    weight alone.

    Under `muon` this is a parameter of a layer's matrix; the others cost what they do under
    `adamw`. On a CPU, where device and host are one, adamw_cpu shares float32 weights with its
    masters. Beyond these, `UPDATE_BUFFER_BYTES` or for adamw_cpu `HOST_BUFFER_BYTES`, and on the
    device the gradient of the largest parameter.
    """
    weight, gradient = BYTES[dtype], BYTES[gradient_dtype]
    if kind == "adamw_cpu":
        return ParameterBytes(weight, host=12 + gradient)
    return ParameterBytes(
        weight,
        gradient,
        masters=0 if dtype == "float32" else FLOAT32,
        moments={"adamw": 8.0, "muon": 4.0, "adamw_8bit": BYTES_8BIT_MOMENTS}.get(kind, 0.0),
        pageable=BYTES_8BIT_MOMENTS if kind == "adamw_8bit_paged" else 0,
    )


@dataclass(frozen=True, slots=True)
class StageConfig:
    """What decides a stage's memory beside its work; `optimizer` None = it does not train;
    `tensor_parallel` GPUs hold one engine together, each `engine_weights` bytes, 0 = it samples
    from the trainer's.
    """

    shape: ModelShape
    training: Training
    assumed: Assumptions
    optimizer: Optimizer | None = None
    adapter: Adapter | None = None
    is_cpu: bool = False
    matmul_precision: str = "highest"
    num_gpus: int = 1
    sharding: Sharding = "optimizer"
    tensor_parallel: int = 1
    engine_weights: float = 0.0


@dataclass(frozen=True, slots=True)
class PhaseMemory:
    """What one phase (train or generate) of a stage holds at its worst moment, in bytes: `parts` on
    the device, `host` beside the program's own.
    """

    stage: str
    phase: str
    moment: str
    parts: dict[str, float]
    host: float = 0.0

    @property
    def total(self) -> float:
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True)
class ModelBytes:
    """Everything as large as the model, in bytes: `update` while the optimizer works; `host` is not
    on the device; `training_weights`, where they are cut over the GPUs: what is gathered at a time,
    None = as while it samples.
    """

    weights: float
    gradients: float = 0.0
    optimizer: float = 0.0
    update: float = 0.0
    host: float = 0.0
    training_weights: float | None = None


def stage_memory(config: StageConfig, work: Work) -> list[PhaseMemory]:
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
    in_buckets = config.is_cpu or training.dtype == "float32"
    backward = activation_bytes(shape, training, tokens, in_buckets=in_buckets)
    forward = activation_bytes(shape, training, tokens, in_buckets=in_buckets, at_head=True)
    offloaded = backward.pop("offloaded", 0.0)
    forward.pop("offloaded", None)
    if config.is_cpu and offloaded:
        # Copied back when it is wanted, so one less is held.
        backward["kept"] /= 2
        forward["kept"] /= 2
    head = _head(config, int(tokens * work.head_share))
    held = head.pop("held", 0.0)
    weights = model.weights if model.training_weights is None else model.training_weights
    resident = {"weights": weights, "optimizer": model.optimizer}
    if work.completions and config.engine_weights and config.is_cpu:
        resident["engine"] = config.engine_weights  # on a GPU it sleeps
    host = model.host + offloaded
    before = model.gradients if work.accumulates else 0.0
    # The embedding's own gradient, and its sum with the head's before it joins what is there.
    matrix = 0 if config.adapter else element * shape.vocab_size * shape.hidden_size
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


def _head(config: StageConfig, tokens: int) -> dict[str, float]:
    element = BYTES[config.training.dtype]
    if config.is_cpu or config.training.dtype != "bfloat16":
        rows, block = CPU_LOGITS if config.is_cpu else GPU_LOGITS
        rows = min(rows, tokens * config.shape.vocab_size)
        logits = rows + 2 * min(block, rows)
        parts = head_bytes(config.shape, tokens, element, logits=logits)
    else:
        parts = gpu_head_bytes(config.shape, tokens)
    if config.adapter is not None:
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
    weights, trained = element * shape.num_parameters, trained_parameters(shape, config.adapter)
    if config.adapter is not None:
        if config.adapter.kind == "qlora":
            layers = shape.layer_parameters * shape.num_layers
            weights = layers * NF4_BYTES + (shape.num_parameters - layers) * element
        weights += trained * element
    if config.optimizer is None:
        return ModelBytes(weights)
    if work.holds_reference:
        weights *= 2
    if config.sharding == "full":
        cut = FLOAT32 * trained / config.num_gpus
        gathered = element * (shape.embedding_parameters + 3 * shape.layer_parameters)
        if work.holds_reference:
            gathered += weights / 2
        return ModelBytes(weights, cut, 3 * cut, training_weights=gathered)
    kind = config.optimizer.kind
    each = bytes_per_parameter(kind, training.dtype, training.gradient_dtype)
    state = (each.masters + each.moments + each.pageable) * trained
    if kind == "muon" and config.adapter is None:
        others = bytes_per_parameter("adamw", training.dtype, training.gradient_dtype)
        state += (others.moments - each.moments) * shape.embedding_parameters
    if kind != "adamw_cpu":
        widened = 0.0 if training.gradient_dtype == "float32" else UPDATE_BUFFER_BYTES
        update = min(FLOAT32 * trained, widened)
        return ModelBytes(weights, each.gradients * trained, state / config.num_gpus, update)
    if config.is_cpu:
        # Float32 weights are their own masters, and nothing is copied.
        host = (each.host - (FLOAT32 if training.dtype == "float32" else 0)) * trained
        gradients = FLOAT32 if training.gradient_dtype == "float32" else 2
        return ModelBytes(weights, gradients * trained, host - gradients * trained)
    largest = element * shape.vocab_size * shape.hidden_size if config.adapter is None else 0
    return ModelBytes(weights, largest, host=each.host * trained + HOST_BUFFER_BYTES)


def trained_parameters(shape: ModelShape, adapter: Adapter | None) -> int:
    """All weights, or those of the adapter."""
    return shape.num_parameters if adapter is None else adapter_parameters(shape, adapter)


def kv_bytes_per_token(shape: ModelShape, element_bytes: int) -> int:
    return 2 * shape.num_layers * shape.key_size * element_bytes


def adapter_parameters(shape: ModelShape, adapter: Adapter) -> int:
    """rank x (inputs + outputs) of every linear map that gets an adapter."""
    others = dict.fromkeys(("q_proj", "o_proj"), shape.query_size)
    others |= dict.fromkeys(("k_proj", "v_proj"), shape.key_size)
    others |= dict.fromkeys(("gate_proj", "up_proj", "down_proj"), shape.mlp_size)
    widths = [shape.hidden_size + others[name] for name in adapter.targets if name in others]
    return adapter.rank * shape.num_layers * sum(widths)


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
