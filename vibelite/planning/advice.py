"""What to change where a recipe does not fit, and how long responses may become."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from vibelite.planning.memory_model import stage_memory
from vibelite.planning.plan import USABLE, Plan, make_plan, stage_config
from vibelite.planning.workload import stage_work
from vibelite.recipe.schema import Recipe
from vibelite.recipe.stage_section import MGPOStage, SFTStage

RESPONSE_STEP, LONGEST_RESPONSE = 1024, 1 << 20
MLP_TILE_TOKENS = 4096

# A key and its value, as --set takes them.
Setting = tuple[str, Any]


def changes_to_fit(plan: Plan) -> list[str] | None:
    """Settings, as --set takes them, that together make the plan's recipe fit; None if none of ours
    do. Taken in the order in which memory is bought with speed, cheapest first, until it fits; then
    each one that it fits without is left out again, dearest first.
    """
    chosen: list[Setting] = []
    settings = _settings(plan)
    while not _fits_with(plan, chosen):
        setting = next(settings, None)
        if setting is None:
            return None
        chosen.append(setting)
    for setting in chosen[::-1]:
        fewer = [other for other in chosen if other is not setting]
        if _fits_with(plan, fewer):
            chosen = fewer
    return [f"{key}={value}" for key, value in dict(chosen).items()]


def changed(recipe: Recipe, settings: Sequence[Setting]) -> Recipe:
    for key, value in settings:
        recipe = _replaced(recipe, key.split("."), value)
    return recipe


def _replaced(section: Any, path: Sequence[str], value: Any) -> Any:
    if not path:
        return value
    name, *rest = path
    if isinstance(section, list):
        return [_replaced(one, rest, value) if one.name == name else one for one in section]
    return section.model_copy(update={name: _replaced(getattr(section, name), rest, value)})


def _fits_with(plan: Plan, settings: Sequence[Setting]) -> bool:
    recipe = changed(plan.recipe, settings)
    return make_plan(recipe, plan.recipe_dir, plan.shape, plan.machine, plan.assumptions).fits


def _settings(plan: Plan) -> Iterator[Setting]:
    recipe, is_cpu = plan.recipe, plan.machine.device.is_cpu
    training = recipe.training
    trained = [stage for stage in recipe.stages if isinstance(stage, SFTStage | MGPOStage)]
    if training.dtype == "float32":
        yield "training.dtype", "bfloat16"
    for stage in trained:
        yield from _smaller_micro_batches(stage, plan.assumptions.prompt_tokens)
    if training.activations == "keep":
        yield "training.activations", "checkpoint"
    if not training.mlp_tile_tokens:
        yield "training.mlp_tile_tokens", MLP_TILE_TOKENS
    if training.activations != "checkpoint_offload" and not is_cpu:
        yield "training.activations", "checkpoint_offload"
    if training.gradient_dtype == "float32":
        yield "training.gradient_dtype", "bfloat16"
    is_shared = plan.machine.num_gpus > 1  # which only adamw is
    if is_shared and recipe.adapter is None and recipe.parallel.sharding != "full":
        yield "parallel.sharding", "full"
    for stage in trained:
        if stage.optimizer.kind != "adamw_cpu" and not is_cpu and not is_shared:
            yield f"stages.{stage.name}.optimizer.kind", "adamw_cpu"
    for stage in recipe.stages:
        sampling = getattr(stage, "sampling", None)
        rows = sampling.max_sequences if sampling is not None else 1
        while rows > 1:
            rows //= 2
            yield f"stages.{stage.name}.sampling.max_sequences", rows


def _smaller_micro_batches(stage: SFTStage | MGPOStage, prompt_tokens: float) -> Iterator[Setting]:
    """Halves the budget until a micro-batch is one sequence: the gradient stays the same."""
    longest = (
        prompt_tokens + stage.sampling.max_new_tokens
        if isinstance(stage, MGPOStage)
        else stage.max_tokens
    )
    budget = stage.tokens_per_micro_batch
    while budget > longest:
        budget = max(budget // 2, int(longest))
        yield f"stages.{stage.name}.tokens_per_micro_batch", budget


def longest_responses(plan: Plan) -> dict[str, int]:
    """For every stage that trains on its own samples the largest max_new_tokens with which it fits,
    everything else as it is, in steps of 1,024; 0 if not even 1,024 fits. Micro-batches grow with
    their longest sequence.
    """
    stages = [stage for stage in plan.recipe.stages if isinstance(stage, MGPOStage)]
    return {stage.name: _longest_response(plan, stage) for stage in stages}


def _longest_response(plan: Plan, stage: MGPOStage) -> int:
    limit = USABLE * plan.machine.device.memory_bytes
    config = stage_config(plan.recipe, stage, plan.shape, plan.machine, plan.assumptions)
    key = f"stages.{stage.name}.sampling.max_new_tokens"

    def fits(tokens: int) -> bool:
        longer = changed(plan.recipe, [(key, tokens)])
        works = stage_work(longer, plan.recipe_dir, plan.assumptions)
        work = next(work for work in works if work.stage == stage.name)
        return all(phase.total <= limit for phase in stage_memory(config, work))

    low, high = 0, LONGEST_RESPONSE // RESPONSE_STEP
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle * RESPONSE_STEP) else (low, middle - 1)
    return low * RESPONSE_STEP
