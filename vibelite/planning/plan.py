"""What a recipe needs before anything is paid: memory, time, money and disk; no torch, no GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vibelite.planning.devices import GPUS, Device
from vibelite.planning.memory_model import (
    PhaseMemory,
    Sharding,
    StageConfig,
    bytes_per_parameter,
    chosen_sharding,
    stage_memory,
    trained_parameters,
)
from vibelite.planning.model_shape import BYTES, FLOAT32, ModelShape
from vibelite.planning.time_model import StageSeconds, stage_seconds
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
    """What a plan is made for; `usd_per_hour` of all of it, None = no money in the plan."""

    device: Device
    num_gpus: int = 1
    usd_per_hour: float | None = None
    price_source: str = ""


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage."""

    work: Work
    seconds: StageSeconds
    phases: list[PhaseMemory]

    @property
    def seconds_per_step(self) -> float | None:
        """None for stages that have no steps."""
        return self.seconds.steps / self.work.num_steps if self.work.num_steps else None


@dataclass(frozen=True, slots=True)
class DiskNeed:
    """Bytes that go to one place: weights that stay, and training states at their most, which are
    gone when their stage has ended.
    """

    place: str
    models: float = 0.0
    states: float = 0.0

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

    def usd(self, seconds: float | None) -> float | None:
        price = self.machine.usd_per_hour
        return None if price is None or seconds is None else seconds / HOUR * price

    @property
    def phases(self) -> list[PhaseMemory]:
        return [phase for stage in self.stages for phase in stage.phases]

    @property
    def peak(self) -> PhaseMemory | None:
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
    trained = trained_parameters(shape, recipe.adapter)
    for work in stage_work(recipe, recipe_dir, assumed):
        stage = recipe.stage_named(work.stage)
        config = stage_config(recipe, stage, shape, machine, assumed)
        seconds = stage_seconds(config, work, machine.device)
        memory = stage_memory(config, work)
        if isinstance(stage, SFTStage | MGPOStage):
            size = snapshot_bytes(stage, recipe, shape.num_parameters, trained, machine.num_gpus)
            memory = [
                replace(phase, parts=phase.parts | {"saved state": size})
                if config.is_cpu
                else replace(phase, host=phase.host + size)
                for phase in memory
            ]
        stages.append(StagePlan(work, seconds, memory))
    disk = disk_needs(recipe, shape, [stage.work for stage in stages], trained)
    return Plan(recipe, recipe_dir, shape, machine, assumed, stages, disk)


def stage_config(
    recipe: Recipe, stage: AnyStage, shape: ModelShape, machine: Machine, assumed: Assumptions
) -> StageConfig:
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
    training = [stage for stage in recipe.stages if isinstance(stage, SFTStage | MGPOStage)]
    state = trained * max((state_bytes(stage, recipe) for stage in training), default=0.0)
    num_states = recipe.checkpoint.keep_last + 1
    needs = [DiskNeed(RUN, models, num_states * state)]
    if isinstance(recipe.model, PretrainedModel):
        needs.append(DiskNeed(CACHE, HUB_BYTES * shape.num_parameters))
    return needs


def snapshot_bytes(
    stage: SFTStage | MGPOStage, recipe: Recipe, num_parameters: int, trained: int, num_gpus: int
) -> float:
    """Of the host's memory, for what is written beside the training: a state, of which every rank
    copies the whole weights and its share of the rest, and the model of a step that is kept.
    """
    element = BYTES[recipe.training.dtype]
    model = 0 if recipe.adapter is not None else element * num_parameters
    return trained * (state_bytes(stage, recipe) + (num_gpus - 1) * element) + model


def state_bytes(stage: SFTStage | MGPOStage, recipe: Recipe) -> float:
    """Of one training state, per trained parameter."""
    training = recipe.training
    each = bytes_per_parameter(stage.optimizer.kind, training.dtype, training.gradient_dtype)
    if stage.optimizer.kind != "adamw_cpu":
        return each.weights + each.masters + each.moments + each.pageable
    masters = 0 if training.dtype == "float32" else FLOAT32
    return each.weights + masters + 2 * FLOAT32


def machine_price(
    cost: Cost, usd_per_gpu_hour: float | None, num_gpus: int
) -> tuple[float | None, str]:
    """USD an hour of the whole machine, None where unknown, and where that comes from."""
    if usd_per_gpu_hour is not None:
        return usd_per_gpu_hour * num_gpus, "--usd-per-gpu-hour"
    usd, key = cost.usd_per_hour, "usd_per_hour"
    if usd is None and cost.usd_per_gpu_hour is not None:
        usd, key = cost.usd_per_gpu_hour * num_gpus, "usd_per_gpu_hour"
    return usd, f"the recipe's cost.{key}: {cost.source or 'no source'}"


def smallest_gpu(plan: Plan) -> Device | None:
    fitting = [gpu for gpu in GPUS.values() if plan.peak_bytes <= USABLE * gpu.memory_bytes]
    return min(fitting, key=lambda gpu: gpu.memory_bytes, default=None)


def plan_as_json(plan: Plan) -> dict[str, Any]:
    """The plan as one JSON object; bytes, seconds, USD."""
    smallest, peak = smallest_gpu(plan), plan.peak
    return {
        "name": plan.recipe.name,
        **asdict(plan.machine),
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
        "stages": [
            {
                **asdict(stage.work),
                "seconds": asdict(stage.seconds) | {"total": stage.seconds.total},
                "seconds_per_step": stage.seconds_per_step,
                "usd": plan.usd(stage.seconds.total),
                "usd_per_step": plan.usd(stage.seconds_per_step),
                "phases": [asdict(phase) | {"total": phase.total} for phase in stage.phases],
            }
            for stage in plan.stages
        ],
    }
