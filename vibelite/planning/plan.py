"""What a recipe needs on a GPU before anything is paid: memory, time, money and disk, and what to
change where it does not fit. Needs neither torch nor a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vibelite.planning.gpus import GPUS, Gpu
from vibelite.planning.memory_model import GIB, PhaseMemory, stage_memory
from vibelite.planning.model_shape import ModelShape
from vibelite.planning.optimizer_memory import bytes_per_parameter
from vibelite.planning.time_model import DTYPE_BYTES, StageSeconds, stage_seconds
from vibelite.planning.workload import Assumptions, StageWork, stage_work
from vibelite.recipe.schema import Recipe
from vibelite.recipe.stage_section import MGPOStage, SFTStage

# Share of the GPU's memory that may be planned for: the allocator's blocks never fill it all.
USABLE = 0.95
FLOAT32 = 4


@dataclass(frozen=True, slots=True)
class Machine:
    """What a plan is made for."""

    gpu: Gpu
    num_gpus: int = 1
    usd_per_hour: float | None = None
    """Of the whole machine; None = no money in the plan."""


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage: its work, its time on the machine, and what each of its phases holds."""

    work: StageWork
    seconds: StageSeconds
    phases: list[PhaseMemory]


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe on a machine."""

    machine: Machine
    shape: ModelShape
    stages: list[StagePlan]
    disk_bytes: float
    assumptions: Assumptions

    @property
    def seconds(self) -> float:
        return sum(stage.seconds.total for stage in self.stages)

    @property
    def usd(self) -> float | None:
        price = self.machine.usd_per_hour
        return None if price is None else self.seconds / 3600 * price

    @property
    def peak(self) -> PhaseMemory:
        """The phase that needs most memory."""
        phases = [phase for stage in self.stages for phase in stage.phases]
        return max(phases, key=lambda phase: phase.total)

    @property
    def fits(self) -> bool:
        return self.peak.total <= USABLE * self.machine.gpu.memory_bytes


def make_plan(
    recipe: Recipe, recipe_dir: Path, shape: ModelShape, machine: Machine, assume: Assumptions
) -> Plan:
    """The plan of a recipe. Several GPUs share the sequences of a step evenly, each with a whole
    model; what they say to each other is not counted.
    """
    stages = []
    for work in stage_work(recipe, recipe_dir, assume):
        stage = recipe.stage_named(work.stage)
        optimizer = stage.optimizer if isinstance(stage, SFTStage | MGPOStage) else None
        seconds = stage_seconds(shape, work, recipe.training, machine.gpu, assume)
        seconds = StageSeconds(
            seconds.generate / machine.num_gpus, seconds.train / machine.num_gpus, seconds.optimizer
        )
        phases = stage_memory(
            shape, work, recipe.training, assume, optimizer=optimizer, adapter=recipe.adapter
        )
        stages.append(StagePlan(work, seconds, phases))
    return Plan(machine, shape, stages, disk_bytes(recipe, shape, stages), assume)


def disk_bytes(recipe: Recipe, shape: ModelShape, stages: list[StagePlan]) -> float:
    """Every model directory that stays, and two training states (the old one goes when the new one
    is complete).
    """
    model = shape.num_parameters * DTYPE_BYTES[recipe.training.dtype]
    kept = 1 + sum(stage.work.kept_models for stage in stages)
    states = [
        shape.num_parameters
        * (each.weights + each.masters + each.moments + each.pageable + (each.host and 3 * FLOAT32))
        for stage in recipe.stages
        if isinstance(stage, SFTStage | MGPOStage) and recipe.adapter is None
        for each in [
            bytes_per_parameter(
                stage.optimizer.kind, recipe.training.dtype, recipe.training.gradient_dtype
            )
        ]
    ]
    return model * kept + 2 * max(states, default=0.0)


def smallest_gpu(plan: Plan) -> Gpu | None:
    """The listed GPU with least memory on which the recipe fits as it is."""
    fitting = [gpu for gpu in GPUS.values() if plan.peak.total <= USABLE * gpu.memory_bytes]
    return min(fitting, key=lambda gpu: gpu.memory_bytes, default=None)


def longest_response(recipe: Recipe, stage: MGPOStage, plan: Plan) -> int:
    """The largest max_new_tokens of a stage, in steps of 1,024, with which it fits; 0 if none."""
    work = next(one.work for one in plan.stages if one.work.stage == stage.name)
    prompt = plan.assumptions.prompt_tokens
    limit = USABLE * plan.machine.gpu.memory_bytes

    def peak(tokens: int) -> float:
        longer = replace(work, max_new_tokens=tokens, micro_batch_tokens=int(prompt + tokens))
        phases = stage_memory(
            plan.shape, longer, recipe.training, plan.assumptions,
            optimizer=stage.optimizer, adapter=recipe.adapter,
        )  # fmt: skip
        return max(phase.total for phase in phases)

    longest = 0
    while longest < 1 << 20 and peak(longest + 1024) <= limit:
        longest += 1024
    return longest


def suggestions(
    recipe: Recipe, recipe_dir: Path, shape: ModelShape, machine: Machine, assume: Assumptions
) -> list[str] | None:
    """Settings, as --set takes them, that together make the recipe fit; None if none of ours do.

    In the order to spend speed for memory: what costs least comes first.
    """
    chosen: list[str] = []
    for setting, changed in _savings(recipe):
        chosen.append(setting)
        recipe = changed
        if make_plan(recipe, recipe_dir, shape, machine, assume).fits:
            return chosen
    return None


def _savings(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """(setting, the recipe with it and all before it), skipping what is set already."""
    steps: list[tuple[str, Mapping[str, Any]]] = [
        ("training.dtype=bfloat16", {"dtype": "bfloat16"}),
        ("training.activations=checkpoint", {"activations": "checkpoint"}),
        ("training.mlp_tile_tokens=4096", {"mlp_tile_tokens": 4096}),
        ("training.activations=checkpoint_offload", {"activations": "checkpoint_offload"}),
        ("training.gradient_dtype=bfloat16", {"gradient_dtype": "bfloat16"}),
    ]
    for setting, change in steps:
        training = recipe.training.model_copy(update=dict(change))
        if training != recipe.training and not _is_weaker(recipe, change):
            recipe = recipe.model_copy(update={"training": training})
            yield setting, recipe
    for stage in recipe.stages:
        if isinstance(stage, SFTStage | MGPOStage) and stage.optimizer.kind != "adamw_cpu":
            optimizer = stage.optimizer.model_copy(update={"kind": "adamw_cpu"})
            recipe = _with_stage(recipe, stage.name, {"optimizer": optimizer})
            yield f"stages.{stage.name}.optimizer.kind=adamw_cpu", recipe
    for _ in range(8):
        for stage in recipe.stages:
            sampling = getattr(stage, "sampling", None)
            if sampling is not None and sampling.max_sequences > 1:
                half = sampling.max_sequences // 2
                sampling = sampling.model_copy(update={"max_sequences": half})
                recipe = _with_stage(recipe, stage.name, {"sampling": sampling})
                yield f"stages.{stage.name}.sampling.max_sequences={half}", recipe


def _is_weaker(recipe: Recipe, change: Mapping[str, Any]) -> bool:
    """Whether the recipe already saves more than the change would."""
    already = recipe.training.activations == "checkpoint_offload"
    return change.get("activations") == "checkpoint" and already


def _with_stage(recipe: Recipe, name: str, update: Mapping[str, Any]) -> Recipe:
    stages = [
        stage.model_copy(update=dict(update)) if stage.name == name else stage
        for stage in recipe.stages
    ]
    return recipe.model_copy(update={"stages": stages})


def plan_as_json(plan: Plan) -> dict[str, Any]:
    """The plan as one JSON object; bytes, seconds, USD."""
    smallest = smallest_gpu(plan)
    return {
        "gpu": asdict(plan.machine.gpu),
        "num_gpus": plan.machine.num_gpus,
        "num_parameters": plan.shape.num_parameters,
        "fits": plan.fits,
        "peak_bytes": plan.peak.total,
        "peak_phase": f"{plan.peak.stage}/{plan.peak.phase}",
        "smallest_gpu": smallest.name if smallest else None,
        "seconds": plan.seconds,
        "usd": plan.usd,
        "disk_bytes": plan.disk_bytes,
        "assumptions": asdict(plan.assumptions),
        "stages": [
            {
                **asdict(stage.work),
                "seconds": asdict(stage.seconds),
                "phases": [asdict(phase) | {"total": phase.total} for phase in stage.phases],
            }
            for stage in plan.stages
        ],
    }


def as_gib(size: float) -> str:
    return f"{size / GIB:.2f}"
