"""The recipe: everything a run does, as one frozen value.

Every field has a unit, a bound, a default with its reason, and a user. Nothing here imports torch
or transformers, so that a recipe is checked in well under a second. The parts are in the files
`*_section.py` beside this one.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vibelite.recipe.data_section import Data
from vibelite.recipe.model_section import Adapter, Model, Training
from vibelite.recipe.run_section import Budget, Checkpoint, Cost, Parallel, Rollout, Verification
from vibelite.recipe.section import Name, NonNegativeInt, PositiveInt, Section
from vibelite.recipe.stage_section import BASE, AnyStage, EvaluateStage


class Recipe(Section):
    name: Name
    seed: NonNegativeInt = 0
    model: Model
    adapter: Adapter | None = None
    """Train a low-rank adapter instead of every weight; null = full-parameter."""
    training: Training = Training()
    data: Data
    rollout: Rollout = Rollout()
    verification: Verification = Verification()
    cost: Cost = Cost()
    budget: Budget = Budget()
    checkpoint: Checkpoint = Checkpoint()
    num_gpus: PositiveInt = 1
    """GPUs of one node, one process each; without GPUs so many processes on the CPU. May be changed
    between runs: it changes the result by rounding alone."""
    parallel: Parallel = Parallel()
    tracking: list[Literal["tensorboard", "trackio", "wandb", "mlflow"]] = []
    """Where steps are shown beside the report: event files in RUN_DIR/tensorboard, or trackio's
    data base on this machine. Both need the extra `track`; nothing is sent anywhere."""
    num_threads: NonNegativeInt = 0
    """CPU threads of torch; 0 = torch's own choice. Bitwise repeatable for a fixed number."""
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    """How exactly float32 matrices are multiplied (torch.set_float32_matmul_precision): highest =
    in float32; medium = in bfloat16 where the processor has units for it, else no change."""
    stages: Annotated[list[AnyStage], Field(min_length=1)]

    @model_validator(mode="after")
    def _dollars_need_a_price(self) -> Recipe:
        if self.budget.usd is not None and not self.cost.has_price:
            raise ValueError(
                "budget.usd needs the price of the machine: cost.usd_per_hour or "
                "cost.usd_per_gpu_hour"
            )
        return self

    @model_validator(mode="after")
    def _engines_fill_the_gpus(self) -> Recipe:
        size = self.rollout.tensor_parallel
        if self.num_gpus % size:
            raise ValueError(
                f"rollout.tensor_parallel: {size} must divide num_gpus, which is {self.num_gpus}"
            )
        return self

    def models_to_evaluate(self, stage: EvaluateStage) -> list[str]:
        """Those that `stage` names; else the base and every earlier stage that makes a model."""
        earlier = self.stages[: self.stages.index(stage)]
        made = [other.name for other in earlier if other.kind in ("sft", "probe", "fuse", "mgpo")]
        return stage.models or [BASE, *made]

    def stage_named(self, name: str) -> AnyStage:
        """The stage called `name`; KeyError if there is none."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(name)
