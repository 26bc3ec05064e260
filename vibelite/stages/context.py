"""What every stage is given: the recipe, its own directory, where other stages left their models,
and the meter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from vibelite.data.decontaminate import evaluation_items
from vibelite.data.sources import load_problems, load_traces
from vibelite.planning.model_shape import model_directory
from vibelite.ranks.ranks import ONE_RANK, Ranks
from vibelite.recipe.data_section import TraceTable
from vibelite.recipe.schema import Recipe
from vibelite.recipe.stage_section import BASE, Sampling, as_list
from vibelite.rewards.pool import VerifierPool
from vibelite.rollout.engine import SamplingSettings
from vibelite.run_dir import RunDir, StageDir, derive_seed
from vibelite.stages.decontaminate import FILE_NAME, Row, is_trained_on, without_evaluation
from vibelite.telemetry.meter import Meter
from vibelite.telemetry.recorder import Recorder
from vibelite.types import Problem, Trace

# What a distill or filter stage leaves for an sft stage.
DISTILLED = "traces.jsonl"


@dataclass(frozen=True, slots=True)
class StageContext:
    """One stage's view of the run."""

    recipe: Recipe
    recipe_dir: Path
    run: RunDir
    stage_name: str
    stage_dir: StageDir
    meter: Meter
    recorder: Recorder
    verifiers: VerifierPool = field(default_factory=VerifierPool)
    """Closed where the stage ends; it starts no process before one is needed."""
    world: Ranks = ONE_RANK
    """The processes of the run, seen from this one."""
    opened: list[Any] = field(default_factory=list)
    """The engine that sampled last (`engines.Opened`), which the run's stages share; or nothing."""

    def seed(self, *parts: str | int) -> int:
        """A seed for one purpose within this stage."""
        return derive_seed(self.recipe.seed, self.stage_name, *parts)

    def close_engine(self) -> None:
        """Closes this rank's part of what is open."""
        with self.meter.span("engine"):
            while self.opened:
                self.opened.pop().close()

    def models_of(self, name: str) -> dict[str, Path]:
        """Every model that stage `name` made, the one that `start_from` means last; `base` is the
        recipe's model.
        """
        if name == BASE:
            return {BASE: self.run.base_model}
        return self.run.find_stage(name).models()

    def model_of(self, name: str) -> Path:
        """The model that `start_from: name` means; with a / in its name, a directory or the hub's,
        which is fetched where the cache has not got it.
        """
        if "/" in name:
            local = self.recipe_dir / Path(name).expanduser()
            with self.world.leader_first():
                return model_directory(local if local.is_dir() else Path(name)).resolve()
        return list(self.models_of(name).values())[-1]

    def problems(self, name: str) -> list[Problem]:
        """The problem set called `name`, decontaminated if a stage trains on it."""
        with self.meter.span("data"), self.world.leader_first():
            return self._trainable(self.all_problems(name), "problems", name)

    def all_problems(self, name: str) -> list[Problem]:
        """The problem set called `name` as it was found."""
        return load_problems(
            self.recipe.data.problems[name], recipe_dir=self.recipe_dir, seed=self.recipe.seed
        )

    def traces(self, names: str | list[str]) -> list[Trace]:
        """The sets of traces `names`, or what the stages of these names left; decontaminated."""
        return list(chain.from_iterable(map(self._traces, as_list(names))))

    def _traces(self, name: str) -> list[Trace]:
        source = self.recipe.data.traces.get(name)
        if source is None:
            path = self.run.find_stage(name).path.resolve() / DISTILLED
            source = TraceTable(source="file", path=str(path), subdomain_column="subdomain")
        with self.meter.span("data"):
            rows = load_traces(
                source, self.recipe.data.problems, recipe_dir=self.recipe_dir, seed=self.recipe.seed
            )
            with self.world.leader_first():
                return self._trainable(rows, "traces", name)

    def _trainable(
        self, rows: list[Row], kind: Literal["problems", "traces"], name: str
    ) -> list[Row]:
        """The rows without those that repeat evaluation problems; all where the recipe asks for no
        decontamination, or no stage trains on the set.
        """
        settings = self.recipe.data.decontaminate
        if settings is None or not is_trained_on(self.recipe, kind, name):
            return rows
        items = [
            item
            for other in settings.against
            for item in evaluation_items(other, self.all_problems(other))
        ]
        path = self.run.path / FILE_NAME
        return without_evaluation(rows, f"{kind}/{name}", items, settings, path)


def sampling_settings(sampling: Sampling, num_completions: int) -> SamplingSettings:
    """The engine's settings for `num_completions` samples per prompt."""
    return SamplingSettings(
        num_completions, sampling.max_new_tokens, sampling.temperature, sampling.top_p
    )


def subdomains_of(problems: Sequence[Problem]) -> list[str]:
    """Sub-domains in order of first appearance."""
    return list(dict.fromkeys(problem.subdomain for problem in problems))
