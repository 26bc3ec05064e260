"""What to change where a recipe does not fit, and how long responses may become."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vibelite.planning.cpu import Cpu
from vibelite.planning.memory_model import stage_memory
from vibelite.planning.model_shape import ModelShape
from vibelite.planning.plan import USABLE, Machine, make_plan, stage_setting
from vibelite.planning.workload import Assumptions, stage_work
from vibelite.recipe.schema import Recipe
from vibelite.recipe.stage_section import AnyStage, MGPOStage, SFTStage

RESPONSE_STEP, LONGEST_RESPONSE = 1024, 1 << 20
MLP_TILE_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Question:
    """What a plan is made from."""

    recipe: Recipe
    recipe_dir: Path
    shape: ModelShape
    machine: Machine
    assume: Assumptions

    def fits(self, recipe: Recipe) -> bool:
        return make_plan(recipe, self.recipe_dir, self.shape, self.machine, self.assume).fits


@dataclass(frozen=True, slots=True)
class Saving:
    """A setting as --set takes it, and the recipe with it."""

    setting: str
    apply: Callable[[Recipe], Recipe]


def suggestions(question: Question) -> list[str] | None:
    """Settings, as --set takes them, that together make the recipe fit; None if none of ours do.

    Taken in the order in which memory is bought with speed, cheapest first, until it fits; then
    each one that it fits without is left out again, dearest first.
    """
    chosen: list[Saving] = []
    for saving in _savings(question):
        chosen.append(saving)
        if question.fits(_with(question.recipe, chosen)):
            break
    else:
        return None
    for saving in chosen[::-1]:
        fewer = [other for other in chosen if other is not saving]
        if question.fits(_with(question.recipe, fewer)):
            chosen = fewer
    last = {saving.setting.partition("=")[0]: saving.setting for saving in chosen}
    return list(last.values())


def _with(recipe: Recipe, savings: list[Saving]) -> Recipe:
    for saving in savings:
        recipe = saving.apply(recipe)
    return recipe


def _savings(question: Question) -> Iterator[Saving]:
    """Every change that we have, those left out that the recipe has made already."""
    recipe, is_cpu = question.recipe, isinstance(question.machine.device, Cpu)
    training, trained = recipe.training, _stages(recipe, SFTStage | MGPOStage)
    if training.dtype == "float32":
        yield _section("training", dtype="bfloat16")
    for stage in trained:
        yield from _smaller_micro_batches(stage, question)
    if training.activations == "keep":
        yield _section("training", activations="checkpoint")
    if not training.mlp_tile_tokens:
        yield _section("training", mlp_tile_tokens=MLP_TILE_TOKENS)
    if training.activations != "checkpoint_offload" and not is_cpu:
        yield _section("training", activations="checkpoint_offload")
    if training.gradient_dtype == "float32":
        yield _section("training", gradient_dtype="bfloat16")
    is_shared = question.machine.num_gpus > 1  # which only adamw is
    if is_shared and recipe.adapter is None and recipe.parallel.sharding != "full":
        yield _section("parallel", sharding="full")
    for stage in trained:
        if stage.optimizer.kind != "adamw_cpu" and not is_cpu and not is_shared:
            optimizer = stage.optimizer.model_copy(update={"kind": "adamw_cpu"})
            yield _stage(stage.name, "optimizer.kind=adamw_cpu", optimizer=optimizer)
    for stage in recipe.stages:
        yield from _fewer_rows(stage)


def _smaller_micro_batches(stage: SFTStage | MGPOStage, question: Question) -> Iterator[Saving]:
    """Halves the budget until a micro-batch is one sequence: the gradient stays the same."""
    longest = (
        question.assume.prompt_tokens + stage.sampling.max_new_tokens
        if isinstance(stage, MGPOStage)
        else stage.max_tokens
    )
    budget = stage.tokens_per_micro_batch
    while budget > longest:
        budget = max(budget // 2, int(longest))
        setting = f"tokens_per_micro_batch={budget}"
        yield _stage(stage.name, setting, tokens_per_micro_batch=budget)


def _fewer_rows(stage: AnyStage) -> Iterator[Saving]:
    """Halves the sequences that are decoded side by side."""
    sampling = getattr(stage, "sampling", None)
    while sampling is not None and sampling.max_sequences > 1:
        half = sampling.max_sequences // 2
        sampling = sampling.model_copy(update={"max_sequences": half})
        yield _stage(stage.name, f"sampling.max_sequences={half}", sampling=sampling)


def _stages(recipe: Recipe, kinds: Any) -> list[Any]:
    return [stage for stage in recipe.stages if isinstance(stage, kinds)]


def _section(section: str, **change: Any) -> Saving:
    """One setting of a section of the recipe."""
    ((name, value),) = change.items()

    def apply(recipe: Recipe) -> Recipe:
        changed = getattr(recipe, section).model_copy(update=change)
        return recipe.model_copy(update={section: changed})

    return Saving(f"{section}.{name}={value}", apply)


def _stage(stage_name: str, setting: str, **change: Any) -> Saving:
    def apply(recipe: Recipe) -> Recipe:
        stages = [
            stage.model_copy(update=change) if stage.name == stage_name else stage
            for stage in recipe.stages
        ]
        return recipe.model_copy(update={"stages": stages})

    return Saving(f"stages.{stage_name}.{setting}", apply)


def longest_response(question: Question, stage: MGPOStage) -> int:
    """The largest max_new_tokens with which a stage fits, everything else as it is, in steps of
    1,024; 0 if not even 1,024 fits. Micro-batches grow with their longest sequence.
    """
    limit = USABLE * question.machine.device.memory_bytes
    setting = stage_setting(
        question.recipe, stage, question.shape, question.machine, question.assume
    )

    def fits(tokens: int) -> bool:
        sampling = stage.sampling.model_copy(update={"max_new_tokens": tokens})
        longer = _stage(stage.name, "", sampling=sampling).apply(question.recipe)
        works = stage_work(longer, question.recipe_dir, question.assume)
        work = next(work for work in works if work.stage == stage.name)
        return all(phase.total <= limit for phase in stage_memory(setting, work))

    low, high = 0, LONGEST_RESPONSE // RESPONSE_STEP
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle * RESPONSE_STEP) else (low, middle - 1)
    return low * RESPONSE_STEP


def longest_responses(question: Question) -> dict[str, int]:
    """`longest_response` of every stage that trains on its own samples."""
    stages = _stages(question.recipe, MGPOStage)
    return {stage.name: longest_response(question, stage) for stage in stages}
