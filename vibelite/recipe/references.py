"""What a recipe's parts say about each other: stage names, problem sets, traces and files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vibelite.recipe.data_section import (
    BenchmarkProblems,
    GeneratedProblems,
    ProblemSource,
    ProblemTable,
    Table,
    TraceMix,
    WorkedTraces,
)
from vibelite.recipe.model_section import PretrainedModel
from vibelite.recipe.schema import Recipe
from vibelite.recipe.source import Location, RecipeSource
from vibelite.recipe.stage_section import (
    BASE,
    AnyStage,
    DistillStage,
    EvaluateStage,
    FilterStage,
    MGPOStage,
    ProbeStage,
    SFTStage,
    as_list,
)
from vibelite.recipe.suggest import did_you_mean

TABLE_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
HUB_NAME = re.compile(r"^[\w.-]+/[\w.-]+$")
# The kinds of stage that end with one model to go on from.
MODEL_KINDS = ("sft", "fuse", "mgpo")
# The kinds that do not go on from a model, and the one that they go on from.
STARTS_FROM = {"probe": ("sft",), "fuse": ("probe",)}
LEARNERS = (MGPOStage, DistillStage, FilterStage)


def check_references(recipe: Recipe, source: RecipeSource, directory: Path) -> None:
    """Adds to `source` what does not fit together; paths are relative to `directory`."""
    checker = _Checker(recipe, source, directory)
    first: dict[str, int] = {}
    for index, stage in enumerate(recipe.stages):
        location = ("stages", index, "name")
        if stage.name == BASE:
            source.report(location, f"{BASE!r} is the model that the recipe starts with")
        elif first.setdefault(stage.name, index) != index:
            origin = source.origin(("stages", first[stage.name]))
            message = f"a stage called {stage.name!r} is already at {origin}; give one a `name`"
            source.report(location, message)
        checker.check_stage(index, stage)
    checker.check_data()
    if isinstance(recipe.model, PretrainedModel):
        checker.check_model(("model", "path"), recipe.model.path)


@dataclass(slots=True)
class _Checker:
    recipe: Recipe
    source: RecipeSource
    directory: Path

    def check_stage(self, index: int, stage: AnyStage) -> None:
        if isinstance(stage, EvaluateStage):
            self._check_evaluate(index, stage)
            return
        if isinstance(stage, FilterStage):
            self._check_any_model(index, "start_from", stage.start_from)
        else:
            self._check_start(index, stage.start_from, STARTS_FROM.get(stage.kind, MODEL_KINDS))
        if isinstance(stage, SFTStage | FilterStage):
            # A set of traces, or an earlier stage that makes one.
            made = [s.name for s in self.recipe.stages[:index] if s.kind in ("distill", "filter")]
            for name in as_list(stage.traces):
                if name not in made:
                    self._check_set(("stages", index, "traces"), name, self.recipe.data.traces)
        if isinstance(stage, ProbeStage):
            for name in as_list(stage.problems):
                self._check_problems(index, name, {"test"}, "choosing specialists on it")
        if isinstance(stage, LEARNERS):
            self._check_problems(index, stage.problems, {"probe", "test"}, "training on it")
            self._check_training_set(index, stage.problems)
        if isinstance(stage, DistillStage):
            self._check_any_model(index, "student", stage.student)
        if isinstance(stage, MGPOStage):
            self._check_rl_sampling(index, stage)

    def check_data(self) -> None:
        data = self.recipe.data
        for name, problems in data.problems.items():
            location = ("data", "problems", name)
            if isinstance(problems, ProblemTable):
                self._check_table(problems, location)
                self._check_verifier(problems, location)
            elif isinstance(problems, BenchmarkProblems) and problems.path:
                self._require_path((*location, "path"), self._path(problems.path))
        for name, traces in data.traces.items():
            location: Location = ("data", "traces", name)
            match traces:
                case WorkedTraces():
                    self._check_worked_traces((*location, "problems"), traces.problems)
                case TraceMix():
                    for position, part in enumerate(traces.sets):
                        self._check_table(part, (*location, "sets", position))
                case _:
                    self._check_table(traces, location)
        trained = {stage.problems for stage in self.recipe.stages if isinstance(stage, LEARNERS)}
        for position, name in enumerate(data.decontaminate.against if data.decontaminate else ()):
            location = ("data", "decontaminate", "against", position)
            if self._check_set(location, name, data.problems) and name in trained:
                self.source.report(location, f"{name!r} is what a stage trains on")

    def check_model(self, location: Location, text: str) -> None:
        path = self._path(text)
        if path.is_dir():
            if not (path / "config.json").is_file():
                self.source.report(location, f"{path} has no config.json: it is no model directory")
        elif not HUB_NAME.match(text) or is_local(text, self.directory):
            self._require_path(location, path)

    def _check_worked_traces(self, location: Location, name: str) -> None:
        problems = self.recipe.data.problems.get(name)
        if not self._check_set(location, name, self.recipe.data.problems):
            return
        if not isinstance(problems, GeneratedProblems):
            message = f"worked solutions exist for reasoning_gym problems only, which {name!r}"
            self.source.report(location, f"{message} has not")
        elif problems.split != "train":
            message = f"{name!r} is a {problems.split!r} set; training on it would spoil"
            self.source.report(location, f"{message} the evaluation: use one with `split: train`")

    def _check_start(
        self, index: int, start_from: str, kinds: tuple[str, ...], *, field: str = "start_from"
    ) -> None:
        location, can_be_base = ("stages", index, field), kinds == MODEL_KINDS
        if start_from == BASE and can_be_base:
            return
        stage = self._find_earlier(location, start_from, base=can_be_base)
        if stage and stage.kind not in kinds:
            message = f"must name a stage of kind {' or '.join(kinds)}"
            self.source.report(location, f"{message}; {start_from!r} is of kind {stage.kind}")

    def _check_any_model(self, index: int, field: str, name: str) -> None:
        if "/" in name:  # no stage's name has one
            self.check_model(("stages", index, field), name)
        else:
            self._check_start(index, name, MODEL_KINDS, field=field)

    def _find_earlier(self, location: Location, name: str, *, base: bool) -> AnyStage | None:
        """The stage called `name` before that of the `location`; reports if none is."""
        earlier = {s.name: s for s in self.recipe.stages[: int(location[1])]}
        if name not in earlier:
            hint = did_you_mean(name, [*([BASE] if base else []), *earlier])
            shown = self._shown(location, name)
            self.source.report(location, f"there is no stage {shown} before this one{hint}")
        return earlier.get(name)

    def _check_set(self, location: Location, name: str, known: Iterable[str]) -> bool:
        if name in known:
            return True
        kind = "traces" if known is self.recipe.data.traces else "problems"
        message = f"there is no {self._shown(location, name)} in data.{kind}"
        self.source.report(location, message + did_you_mean(name, known))
        return False

    def _shown(self, location: Location, name: str) -> str:
        return repr(name) if self.source.is_written(location) else f"{name!r} (the default)"

    def _check_problems(self, index: int, name: str, refused: set[str], doing: str) -> None:
        location = ("stages", index, "problems")
        self._check_set(location, name, self.recipe.data.problems)
        problems, what = self.recipe.data.problems.get(name), ""
        if isinstance(problems, BenchmarkProblems):
            what = "benchmark"
        elif isinstance(problems, GeneratedProblems) and problems.split in refused:
            what = f"{problems.split!r} set"
        if what:
            message = f"{name!r} is a {what}; {doing} would spoil the evaluation"
            self.source.report(location, message)

    def _check_training_set(self, index: int, name: str) -> None:
        """Files and hub data sets have no splits of ours: the same one must not serve both ends."""
        sets = self.recipe.data.problems
        for other in self.recipe.stages:
            if not isinstance(other, EvaluateStage | ProbeStage):
                continue
            is_probe = isinstance(other, ProbeStage)
            tested = as_list(other.problems if is_probe else other.benchmarks)
            if any(_overlap(sets.get(name), sets.get(problems)) for problems in tested):
                message = f"{name!r} is what the stage {other.name!r} tests on"
                location = ("stages", index, "problems")
                self.source.report(location, f"{message}; train on other problems")

    def _check_rl_sampling(self, index: int, stage: MGPOStage) -> None:
        location = ("stages", index, "sampling")
        if stage.sampling.top_p != 1:
            message = "must be 1 while training: the loss needs logprobs of the whole distribution"
            self.source.report((*location, "top_p"), message)
        if stage.sampling.temperature == 0:
            message = "must be above 0 while training: greedy completions of a group are all equal"
            self.source.report((*location, "temperature"), message)

    def _check_evaluate(self, index: int, stage: EvaluateStage) -> None:
        for position, benchmark in enumerate(stage.benchmarks):
            location = ("stages", index, "benchmarks", position)
            self._check_set(location, benchmark, self.recipe.data.problems)
        for position, model in enumerate(stage.models):
            location = ("stages", index, "models", position)
            earlier = None if model == BASE else self._find_earlier(location, model, base=True)
            if earlier and earlier.kind not in ("probe", *MODEL_KINDS):
                self.source.report(location, f"the stage {model!r} makes no model of its own")

    def _check_verifier(self, problems: ProblemTable, location: Location) -> None:
        reward = problems.reward
        if problems.columns.incorrect and problems.verifier != "choice":
            message = f"only for verifier: choice, and this one is {problems.verifier}"
            self.source.report((*location, "columns", "incorrect"), message)
        if (reward is not None) != (problems.verifier == "custom"):
            message = "verifier: custom needs a reward (file, function), and no other has one"
            self.source.report((*location, "reward" if reward else "verifier"), message)
        elif reward is not None:
            self._require_path((*location, "reward", "file"), self._path(reward.file))

    def _check_table(self, table: Table, location: Location) -> None:
        path = table.local_path(self.directory)
        if path is None:
            if is_local(table.path, self.directory):
                message = f"{table.path!r} is a path of this machine; use `source: file`"
                self.source.report((*location, "path"), message)
            return
        location = (*location, "path" if table.source == "file" else "local")
        if not path.is_dir() and path.suffix not in TABLE_SUFFIXES and table.source == "file":
            message = f"{table.path!r} must end in {', '.join(TABLE_SUFFIXES)}"
            self.source.report(location, message)
        else:
            self._require_path(location, path)

    def _path(self, text: str) -> Path:
        return self.directory / Path(text).expanduser()

    def _require_path(self, location: Location, path: Path) -> None:
        if not path.exists():
            message = f"there is no file or directory {path} (paths are relative to the recipe)"
            self.source.report(location, message)


def _overlap(a: ProblemSource | None, b: ProblemSource | None) -> bool:
    """Whether two problem sets are of one table, and not its two parts."""
    if isinstance(a, BenchmarkProblems) and isinstance(b, BenchmarkProblems):
        return a.name == b.name
    if not (isinstance(a, ProblemTable) and isinstance(b, ProblemTable)):
        return False
    if (a.source, a.path, a.config, a.split) != (b.source, b.path, b.config, b.split):
        return False
    return {a.part, b.part} != {"train", "held-out"} or a.held_out != b.held_out


def is_local(text: str, directory: Path) -> bool:
    """Whether a text names a place on this machine, and no OWNER/NAME on the hub."""
    begins_like_a_path = text.startswith((".", "/", "~"))
    return begins_like_a_path or (directory / text).exists()
