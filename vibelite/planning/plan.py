"""What a recipe needs before anything is paid: memory, time, money and disk. Needs neither torch
nor a GPU.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vibelite.planning import cpu
from vibelite.planning.cpu import Cpu
from vibelite.planning.disk import DiskNeed, disk_needs
from vibelite.planning.gpus import GPUS, Gpu
from vibelite.planning.memory_model import PhaseMemory, Setting, stage_memory
from vibelite.planning.model_shape import ModelShape
from vibelite.planning.optimizer_memory import BYTES
from vibelite.planning.sharding import Sharding, chosen_sharding
from vibelite.planning.time_model import (
    StageSeconds,
    communicated_bytes,
    passes_of_a_rank,
    stage_seconds,
    trained_parameters,
)
from vibelite.planning.workload import Assumptions, StageWork, stage_work
from vibelite.recipe.schema import Recipe
from vibelite.recipe.stage_section import AnyStage, MGPOStage, SFTStage

# Share of the memory that may be planned for: the allocator's blocks never fill it all.
USABLE = 0.95
HOUR = 3600


@dataclass(frozen=True, slots=True)
class Machine:
    """What a plan is made for."""

    device: Gpu | Cpu
    num_gpus: int = 1
    usd_per_hour: float | None = None
    """Of the whole machine; None = no money in the plan."""


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage: its work, its time on the machine, and what each of its phases holds."""

    work: StageWork
    seconds: StageSeconds
    phases: list[PhaseMemory]
    communicated_bytes: float
    """That each GPU sends per update."""

    @property
    def seconds_per_step(self) -> float | None:
        """None for stages that have no steps."""
        return self.seconds.total / self.work.num_steps if self.work.num_steps else None


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe on a machine."""

    machine: Machine
    shape: ModelShape
    stages: list[StagePlan]
    disk: list[DiskNeed]
    assumptions: Assumptions

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
    def host_bytes(self) -> float:
        """The most that a phase holds in the host's memory, beside the program itself."""
        return max((phase.host for phase in self.phases), default=0.0)

    @property
    def fits(self) -> bool:
        return self.peak_bytes <= USABLE * self.machine.device.memory_bytes


def make_plan(
    recipe: Recipe, recipe_dir: Path, shape: ModelShape, machine: Machine, assume: Assumptions
) -> Plan:
    """The plan of a recipe. Several GPUs share the sequences of a step evenly, and the optimizer
    or all that is trained (`planning/sharding.py`).
    """
    stages = []
    for work in stage_work(recipe, recipe_dir, assume):
        setting = stage_setting(recipe, recipe.stage_named(work.stage), shape, machine, assume)
        num_passes = passes_of_a_rank(work, setting)
        sent = 0.0
        if setting.optimizer:
            sent = communicated_bytes(setting, machine.num_gpus, num_passes)
        seconds = _seconds(recipe, setting, work, machine.device)
        stages.append(StagePlan(work, seconds, stage_memory(setting, work), sent))
    trained = trained_parameters(Setting(shape, recipe.training, assume, adapter=recipe.adapter))
    disk = disk_needs(recipe, shape, [stage.work for stage in stages], trained)
    return Plan(machine, shape, stages, disk, assume)


def stage_setting(
    recipe: Recipe, stage: AnyStage, shape: ModelShape, machine: Machine, assume: Assumptions
) -> Setting:
    """What decides the memory and the time of a stage, beside its work."""
    is_cpu = isinstance(machine.device, Cpu)
    sharding = chosen_sharding(
        recipe,
        shape.num_parameters,
        num_gpus=machine.num_gpus,
        memory_bytes=None if is_cpu else machine.device.memory_bytes,
    )
    return Setting(
        shape,
        recipe.training,
        assume,
        optimizer=stage.optimizer if isinstance(stage, SFTStage | MGPOStage) else None,
        adapter=recipe.adapter,
        is_cpu=is_cpu,
        num_gpus=machine.num_gpus,
        sharding=sharding,
        tensor_parallel=recipe.rollout.tensor_parallel,
        engine_weights=_engine_weights(recipe, shape, sharding),
        engine_sleep_level=recipe.rollout.vllm.sleep_level,
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


def _seconds(recipe: Recipe, setting: Setting, work: StageWork, device: Gpu | Cpu) -> StageSeconds:
    if isinstance(device, Gpu):
        return stage_seconds(setting, work, device)
    products = cpu.products_of(recipe.training, recipe.matmul_precision)
    return StageSeconds(
        generate=cpu.generate_seconds(setting, work, device.rates, products),
        train=cpu.train_seconds(setting, work, device.rates, products),
        optimizer=cpu.optimizer_seconds(setting, work, device.rates),
    )


def smallest_gpu(plan: Plan) -> Gpu | None:
    """The listed GPU with least memory on which the recipe fits as it is."""
    fitting = [gpu for gpu in GPUS.values() if plan.peak_bytes <= USABLE * gpu.memory_bytes]
    return min(fitting, key=lambda gpu: gpu.memory_bytes, default=None)


def plan_as_json(plan: Plan) -> dict[str, Any]:
    """The plan as one JSON object; bytes, seconds, USD."""
    smallest, peak = smallest_gpu(plan), plan.peak
    return {
        "device": asdict(plan.machine.device),
        "num_gpus": plan.machine.num_gpus,
        "usd_per_hour": plan.machine.usd_per_hour,
        "num_parameters": plan.shape.num_parameters,
        "fits": plan.fits,
        "usable_share": USABLE,
        "peak_bytes": plan.peak_bytes,
        "peak_phase": f"{peak.stage}/{peak.phase}" if peak else None,
        "host_bytes": plan.host_bytes,
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
