"""Bytes that a run writes, by the directory that they go to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vibelite.planning.model_shape import ModelShape
from vibelite.planning.optimizer_memory import BYTES, FLOAT32, bytes_per_parameter
from vibelite.planning.workload import Work
from vibelite.recipe.model_section import PretrainedModel
from vibelite.recipe.schema import Recipe
from vibelite.recipe.stage_section import MGPOStage, SFTStage

# A hub model is stored in bfloat16, as almost all are.
HUB_BYTES = 2
RUN, CACHE = "run directory", "model cache"


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
