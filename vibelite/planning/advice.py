"""What to change where a recipe does not fit, and how long responses may become."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from vibelite.planning.devices import Cpu
from vibelite.planning.memory_model import stage_memory
from vibelite.planning.plan import USABLE, Plan, make_plan, stage_config
from vibelite.planning.workload import stage_work
from vibelite.recipe.schema import Recipe
from vibelite.recipe.stage_section import AnyStage, MGPOStage, SFTStage

RESPONSE_STEP, LONGEST_RESPONSE = 1024, 1 << 20
MLP_TILE_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Change:
    """A setting as --set takes it, and how it changes a recipe."""

    setting: str
    apply: Callable[[Recipe], Recipe]


def changes_to_fit(plan: Plan) -> list[str] | None:
    """Settings, as --set takes them, that together make the plan's recipe fit; None if none of ours
    do.

    Taken in the order in which memory is bought with speed, cheapest first, until it fits; then
    each one that it fits without is left out again, dearest first.
    """
    if plan.fits:
        return []
    chosen: list[Change] = []
    for change in _changes(plan):
        chosen.append(change)
        if _fits_with(plan, chosen):
            break
    else:
        return None
    for change in chosen[::-1]:
        fewer = [other for other in chosen if other is not change]
        if _fits_with(plan, fewer):
            chosen = fewer
    last = {change.setting.partition("=")[0]: change.setting for change in chosen}
    return list(last.values())


def _fits_with(plan: Plan, changes: list[Change]) -> bool:
    recipe = plan.recipe
    for change in changes:
        recipe = change.apply(recipe)
    return make_plan(recipe, plan.recipe_dir, plan.shape, plan.machine, plan.assumptions).fits


def _changes(plan: Plan) -> Iterator[Change]:
    """Every change that we have, those left out that the recipe has made already."""
    recipe, is_cpu = plan.recipe, isinstance(plan.machine.device, Cpu)
    training, trained = recipe.training, _stages(recipe, SFTStage | MGPOStage)
    if training.dtype == "float32":
        yield _section("training", dtype="bfloat16")
    for stage in trained:
        yield from _smaller_micro_batches(stage, plan.assumptions.prompt_tokens)
    if training.activations == "keep":
        yield _section("training", activations="checkpoint")
    if not training.mlp_tile_tokens:
        yield _section("training", mlp_tile_tokens=MLP_TILE_TOKENS)
    if training.activations != "checkpoint_offload" and not is_cpu:
        yield _section("training", activations="checkpoint_offload")
    if training.gradient_dtype == "float32":
        yield _section("training", gradient_dtype="bfloat16")
    is_shared = plan.machine.num_gpus > 1  # which only adamw is
    if is_shared and recipe.adapter is None and recipe.parallel.sharding != "full":
        yield _section("parallel", sharding="full")
    for stage in trained:
        if stage.optimizer.kind != "adamw_cpu" and not is_cpu and not is_shared:
            optimizer = stage.optimizer.model_copy(update={"kind": "adamw_cpu"})
            yield _stage(stage.name, "optimizer.kind=adamw_cpu", optimizer=optimizer)
    for stage in recipe.stages:
        yield from _fewer_rows(stage)


def _smaller_micro_batches(stage: SFTStage | MGPOStage, prompt_tokens: float) -> Iterator[Change]:
    """Halves the budget until a micro-batch is one sequence: the gradient stays the same."""
    longest = (
        prompt_tokens + stage.sampling.max_new_tokens
        if isinstance(stage, MGPOStage)
        else stage.max_tokens
    )
    budget = stage.tokens_per_micro_batch
    while budget > longest:
        budget = max(budget // 2, int(longest))
        setting = f"tokens_per_micro_batch={budget}"
        yield _stage(stage.name, setting, tokens_per_micro_batch=budget)


def _fewer_rows(stage: AnyStage) -> Iterator[Change]:
    """Halves the sequences that are decoded side by side."""
    sampling = getattr(stage, "sampling", None)
    while sampling is not None and sampling.max_sequences > 1:
        half = sampling.max_sequences // 2
        sampling = sampling.model_copy(update={"max_sequences": half})
        yield _stage(stage.name, f"sampling.max_sequences={half}", sampling=sampling)


def _stages(recipe: Recipe, kinds: Any) -> list[Any]:
    return [stage for stage in recipe.stages if isinstance(stage, kinds)]


def _section(section: str, **change: Any) -> Change:
    """One setting of a section of the recipe."""
    ((name, value),) = change.items()

    def apply(recipe: Recipe) -> Recipe:
        changed = getattr(recipe, section).model_copy(update=change)
        return recipe.model_copy(update={section: changed})

    return Change(f"{section}.{name}={value}", apply)


def _stage(stage_name: str, setting: str, **change: Any) -> Change:
    def apply(recipe: Recipe) -> Recipe:
        stages = [
            stage.model_copy(update=change) if stage.name == stage_name else stage
            for stage in recipe.stages
        ]
        return recipe.model_copy(update={"stages": stages})

    return Change(f"stages.{stage_name}.{setting}", apply)


def longest_responses(plan: Plan) -> dict[str, int]:
    """`longest_response` of every stage that trains on its own samples."""
    stages = _stages(plan.recipe, MGPOStage)
    return {stage.name: longest_response(plan, stage) for stage in stages}


def longest_response(plan: Plan, stage: MGPOStage) -> int:
    """The largest max_new_tokens with which a stage fits, everything else as it is, in steps of
    1,024; 0 if not even 1,024 fits. Micro-batches grow with their longest sequence.
    """
    limit = USABLE * plan.machine.device.memory_bytes
    config = stage_config(plan.recipe, stage, plan.shape, plan.machine, plan.assumptions)

    def fits(tokens: int) -> bool:
        sampling = stage.sampling.model_copy(update={"max_new_tokens": tokens})
        longer = _stage(stage.name, "", sampling=sampling).apply(plan.recipe)
        works = stage_work(longer, plan.recipe_dir, plan.assumptions)
        work = next(work for work in works if work.stage == stage.name)
        return all(phase.total <= limit for phase in stage_memory(config, work))

    low, high = 0, LONGEST_RESPONSE // RESPONSE_STEP
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle * RESPONSE_STEP) else (low, middle - 1)
    return low * RESPONSE_STEP
