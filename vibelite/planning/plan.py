"""What a recipe needs before anything is paid: memory, time, money and disk. Needs neither torch
nor a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vibelite.planning.devices import GPUS, Device
from vibelite.planning.memory_model import (
    PhaseMemory,
    Sharding,
    StageConfig,
    chosen_sharding,
    stage_memory,
)
from vibelite.planning.model_shape import ModelShape
from vibelite.planning.optimizer_memory import BYTES, FLOAT32, bytes_per_parameter
from vibelite.planning.time_model import (
    StageSeconds,
    communicated_bytes,
    passes_of_a_rank,
    stage_seconds,
    trained_parameters,
)
from vibelite.planning.workload import Assumptions, Work, stage_work
from vibelite.recipe.model_section import PretrainedModel
from vibelite.recipe.run_section import Cost
from vibelite.recipe.schema import Recipe
from vibelite.recipe.stage_section import AnyStage, MGPOStage, SFTStage
from vibelite.units import HOUR

# Share of the memory that may be planned for: the allocator's blocks never fill it all.
USABLE = 0.95
# A hub model is stored in bfloat16, as almost all are.
HUB_BYTES = 2
RUN, CACHE = "run directory", "model cache"


@dataclass(frozen=True, slots=True)
class Machine:
    """What a plan is made for."""

    device: Device
    num_gpus: int = 1
    usd_per_hour: float | None = None
    """Of the whole machine; None = no money in the plan."""
    price_source: str = ""


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage: its work, its time on the machine, and what each of its phases holds."""

    work: Work
    seconds: StageSeconds
    phases: list[PhaseMemory]
    communicated_bytes: float
    """That each GPU sends per update."""

    @property
    def seconds_per_step(self) -> float | None:
        """None for stages that have no steps."""
        return self.seconds.steps / self.work.num_steps if self.work.num_steps else None


@dataclass(frozen=True, slots=True)
class DiskNeed:
    """What goes to one place."""

    place: str
    models: float = 0.0
    """Weights that stay, in bytes."""
    states: float = 0.0
    """Training states at their most, in bytes; gone when their stage has ended."""

    @property
    def total(self) -> float:
        return self.models + self.states


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe on a machine, and what it was made from."""

    recipe: Recipe
    recipe_dir: Path
    shape: ModelShape
    machine: Machine
    assumptions: Assumptions
    stages: list[StagePlan]
    disk: list[DiskNeed]

    @property
    def seconds(self) -> float:
        return sum(stage.seconds.total for stage in self.stages)

    def usd(self, seconds: float) -> float | None:
        """What so many seconds of the machine cost."""
        price = self.machine.usd_per_hour
        return None if price is None else seconds / HOUR * price

    @property
    def phases(self) -> list[PhaseMemory]:
        return [phase for stage in self.stages for phase in stage.phases]

    @property
    def peak(self) -> PhaseMemory | None:
        """The phase that needs most memory of the device; None if no stage uses it."""
        return max(self.phases, key=lambda phase: phase.total, default=None)

    @property
    def peak_bytes(self) -> float:
        return self.peak.total if self.peak is not None else 0.0

    @property
    def fits(self) -> bool:
        return self.peak_bytes <= USABLE * self.machine.device.memory_bytes


def make_plan(
    recipe: Recipe, recipe_dir: Path, shape: ModelShape, machine: Machine, assumed: Assumptions
) -> Plan:
    """The plan of a recipe. Several GPUs share the sequences of a step evenly, and the optimizer
    or all that is trained (`chosen_sharding`).
    """
    stages = []
    for work in stage_work(recipe, recipe_dir, assumed):
        config = stage_config(recipe, recipe.stage_named(work.stage), shape, machine, assumed)
        num_passes = passes_of_a_rank(work, config)
        sent = communicated_bytes(config, num_passes) if config.optimizer else 0.0
        seconds = stage_seconds(config, work, machine.device)
        stages.append(StagePlan(work, seconds, stage_memory(config, work), sent))
    trained = trained_parameters(
        StageConfig(shape, recipe.training, assumed, adapter=recipe.adapter)
    )
    disk = disk_needs(recipe, shape, [stage.work for stage in stages], trained)
    return Plan(recipe, recipe_dir, shape, machine, assumed, stages, disk)


def stage_config(
    recipe: Recipe, stage: AnyStage, shape: ModelShape, machine: Machine, assumed: Assumptions
) -> StageConfig:
    """What decides the memory and the time of a stage, besides its work."""
    is_cpu = machine.device.is_cpu
    sharding = chosen_sharding(
        recipe,
        shape.num_parameters,
        num_gpus=machine.num_gpus,
        memory_bytes=None if is_cpu else machine.device.memory_bytes,
    )
    return StageConfig(
        shape,
        recipe.training,
        assumed,
        optimizer=stage.optimizer if isinstance(stage, SFTStage | MGPOStage) else None,
        adapter=recipe.adapter,
        is_cpu=is_cpu,
        matmul_precision=recipe.matmul_precision,
        num_gpus=machine.num_gpus,
        sharding=sharding,
        tensor_parallel=recipe.rollout.tensor_parallel,
        engine_weights=_engine_weights(recipe, shape, sharding),
    )


def _engine_weights(recipe: Recipe, shape: ModelShape, sharding: Sharding) -> float:
    """Bytes on each GPU of the weights that vLLM has beside the trainer's; 0 where it shares
    those.
    """
    rollout, dtype = recipe.rollout, recipe.training.dtype
    if rollout.engine != "vllm":
        return 0.0
    sampled = dtype if rollout.vllm.dtype == "auto" else rollout.vllm.dtype
    is_whole = sharding == "optimizer" and rollout.tensor_parallel == 1
    can_share = recipe.adapter is None and is_whole and sampled == dtype
    if can_share and rollout.vllm.sync in ("auto", "alias"):
        return 0.0
    return BYTES[sampled] * shape.num_parameters / rollout.tensor_parallel


def disk_needs(
    recipe: Recipe, shape: ModelShape, works: Sequence[Work], trained: int
) -> list[DiskNeed]:
    """The run directory, and the cache of a model that comes from the hub.

    Models: the first one and every directory that a stage leaves, in the weights' type; under an
    adapter what the trained stages leave is the adapter, `trained` weights. States: weights and
    optimizer of `checkpoint.keep_last` steps and of the one that is being written.
    """
    element = BYTES[recipe.training.dtype]
    whole = element * shape.num_parameters
    models = whole
    for work in works:
        is_small = recipe.adapter is not None and work.kind in ("sft", "mgpo")
        models += work.kept_models * (element * trained if is_small else whole)
    states = [
        trained * state_bytes(stage, recipe)
        for stage in recipe.stages
        if isinstance(stage, SFTStage | MGPOStage)
    ]
    num_states = recipe.checkpoint.keep_last + 1
    needs = [DiskNeed(RUN, models, num_states * max(states, default=0.0))]
    if isinstance(recipe.model, PretrainedModel):
        needs.append(DiskNeed(CACHE, HUB_BYTES * shape.num_parameters))
    return needs


def state_bytes(stage: SFTStage | MGPOStage, recipe: Recipe) -> float:
    """Of one training state, per trained parameter: weight, master of a 16-bit one, moments."""
    training = recipe.training
    each = bytes_per_parameter(stage.optimizer.kind, training.dtype, training.gradient_dtype)
    if stage.optimizer.kind != "adamw_cpu":
        return each.weights + each.masters + each.moments + each.pageable
    masters = 0 if training.dtype == "float32" else FLOAT32
    return each.weights + masters + 2 * FLOAT32


def machine_price(
    cost: Cost, usd_per_gpu_hour: float | None, num_gpus: int
) -> tuple[float | None, str]:
    """USD an hour of the whole machine, and where that comes from; None where no price is known.
    The command line goes before the recipe.
    """
    if usd_per_gpu_hour is not None:
        return usd_per_gpu_hour * num_gpus, "--usd-per-gpu-hour"
    source = cost.source or "no source"
    if cost.usd_per_hour is not None:
        return cost.usd_per_hour, f"the recipe's cost.usd_per_hour: {source}"
    if cost.usd_per_gpu_hour is not None:
        usd = cost.usd_per_gpu_hour * num_gpus
        return usd, f"the recipe's cost.usd_per_gpu_hour: {source}"
    return None, "none is known"


def smallest_gpu(plan: Plan) -> Device | None:
    """The listed GPU with least memory on which the recipe fits as it is."""
    fitting = [gpu for gpu in GPUS.values() if plan.peak_bytes <= USABLE * gpu.memory_bytes]
    return min(fitting, key=lambda gpu: gpu.memory_bytes, default=None)


def plan_as_json(plan: Plan) -> dict[str, Any]:
    """The plan as one JSON object; bytes, seconds, USD."""
    smallest, peak = smallest_gpu(plan), plan.peak
    return {
        "name": plan.recipe.name,
        "device": asdict(plan.machine.device),
        "num_gpus": plan.machine.num_gpus,
        "usd_per_hour": plan.machine.usd_per_hour,
        "price_source": plan.machine.price_source,
        "num_parameters": plan.shape.num_parameters,
        "fits": plan.fits,
        "usable_share": USABLE,
        "peak_bytes": plan.peak_bytes,
        "peak_phase": f"{peak.stage}/{peak.phase}" if peak else None,
        "host_bytes": max((phase.host for phase in plan.phases), default=0.0),
        "smallest_gpu": smallest.name if smallest else None,
        "seconds": plan.seconds,
        "usd": plan.usd(plan.seconds),
        "disk": [asdict(need) for need in plan.disk],
        "assumptions": asdict(plan.assumptions),
        "stages": [_stage_as_json(plan, stage) for stage in plan.stages],
    }


def _stage_as_json(plan: Plan, stage: StagePlan) -> dict[str, Any]:
    each = stage.seconds_per_step
    return {
        **asdict(stage.work),
        "seconds": asdict(stage.seconds) | {"total": stage.seconds.total},
        "seconds_per_step": each,
        "usd": plan.usd(stage.seconds.total),
        "usd_per_step": None if each is None else plan.usd(each),
        "communicated_bytes": stage.communicated_bytes,
        "phases": [asdict(phase) | {"total": phase.total} for phase in stage.phases],
    }
