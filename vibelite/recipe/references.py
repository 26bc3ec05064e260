"""What a recipe's parts say about each other: stage names, problem sets, traces and model files.

Works on the parts that are valid by themselves, so that these problems are reported together with
those inside other parts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from vibelite.recipe.data_section import (
    BenchmarkProblems,
    GeneratedProblems,
    ProblemSource,
    ProblemTable,
    Table,
    TraceMix,
    TraceSource,
    WorkedTraces,
)
from vibelite.recipe.model_section import Model, PretrainedModel
from vibelite.recipe.source import Location, RecipeSource
from vibelite.recipe.stage_section import (
    BASE,
    AnyStage,
    DistillStage,
    EvaluateStage,
    FilterStage,
    FuseStage,
    MGPOStage,
    ProbeStage,
    SFTStage,
)
from vibelite.recipe.suggest import did_you_mean

TABLE_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
HUB_NAME = re.compile(r"^[\w.-]+/[\w.-]+$")
# The kinds of stage that end with one model to go on from.
MODEL_KINDS = ("sft", "fuse", "mgpo")
# The kinds that do not go on from a model, and the one that they go on from.
STARTS_FROM = {"probe": ("sft",), "fuse": ("probe",)}
# The kinds that learn from answers to problems.
LEARNERS = (MGPOStage, DistillStage, FilterStage)


@dataclass(slots=True)
class RecipeParts:
    """The parts of a recipe by themselves; None where a part is wrong or missing.

    `stage_names` holds the names of all stages, wrong or not, so that a reference to a stage with a
    mistake of its own is not reported as well; so do the keys of `problems` and `traces`.
    """

    model: Model | None
    problems: dict[str, ProblemSource | None]
    traces: dict[str, TraceSource | None]
    stages: list[AnyStage | None]
    stage_names: list[str | None]
    stage_kinds: list[str | None]


def check_references(parts: RecipeParts, source: RecipeSource, directory: Path) -> None:
    """Adds to `source` what does not fit together; paths are relative to `directory`."""
    checker = _Checker(parts, source)
    checker.check_stage_names()
    for index, stage in enumerate(parts.stages):
        if stage is not None:
            checker.check_stage(index, stage)
    for name, traces in parts.traces.items():
        if isinstance(traces, WorkedTraces):
            checker.check_worked_traces(name, traces)
    _check_decontaminate(parts, source)
    _check_rewards(parts, source, directory)
    _check_files(parts, source, directory)


@dataclass(slots=True)
class _Checker:
    parts: RecipeParts
    source: RecipeSource

    def check_stage_names(self) -> None:
        first: dict[str, int] = {}
        for index, name in enumerate(self.parts.stage_names):
            location = ("stages", index, "name")
            if name == BASE:
                self.source.report(location, f"{BASE!r} is the model that the recipe starts with")
            elif name in first:
                origin = self.source.origin(("stages", first[name]))
                message = f"a stage called {name!r} is already at {origin}; give one a `name`"
                self.source.report(location, message)
            elif name is not None:
                first[name] = index

    def check_stage(self, index: int, stage: AnyStage) -> None:
        if isinstance(stage, EvaluateStage):
            self._check_evaluate(index, stage)
            return
        self._check_start(index, stage.start_from, STARTS_FROM.get(stage.kind, MODEL_KINDS))
        if isinstance(stage, SFTStage | FilterStage):
            self._check_traces(index, stage.traces)
        if isinstance(stage, ProbeStage):
            self._check_problems(index, stage.problems, {"test"}, "choosing specialists on it")
        if isinstance(stage, LEARNERS):
            self._check_problems(index, stage.problems, {"probe", "test"}, "training on it")
            self._check_training_set(index, stage.problems)
        match stage:
            case FuseStage():
                self._check_fuse_weights(index, stage)
            case MGPOStage():
                self._check_rl_sampling(index, stage)
            case DistillStage():
                self._check_start(index, stage.student, MODEL_KINDS, field="student")
            case _:
                pass

    def check_worked_traces(self, name: str, traces: WorkedTraces) -> None:
        location = ("data", "traces", name, "problems")
        self._check_set(location, traces.problems, "problems")
        problems = self.parts.problems.get(traces.problems)
        if problems is None:
            return
        if not isinstance(problems, GeneratedProblems):
            message = f"worked solutions exist for reasoning_gym problems only, {traces.problems!r}"
            self.source.report(location, f"{message} comes from {problems.source!r}")
        elif problems.split != "train":
            message = f"{traces.problems!r} is a {problems.split!r} set; training on it would spoil"
            self.source.report(location, f"{message} the evaluation: use one with `split: train`")

    def _check_traces(self, index: int, name: str) -> None:
        """A set of traces, or an earlier stage that makes one."""
        earlier = zip(self.parts.stage_names[:index], self.parts.stage_kinds, strict=False)
        if not {(name, "distill"), (name, "filter")} & set(earlier):
            self._check_set(("stages", index, "traces"), name, "traces")

    def _check_start(
        self, index: int, start_from: str, kinds: tuple[str, ...], *, field: str = "start_from"
    ) -> None:
        location, can_be_base = ("stages", index, field), kinds == MODEL_KINDS
        if start_from == BASE:
            if not can_be_base:
                self.source.report(location, f"must name a stage of kind {kinds[0]}, not {BASE!r}")
            return
        position = self._find_earlier(location, index, start_from, base=can_be_base)
        if position is None:
            return
        kind = self.parts.stage_kinds[position]
        if kind not in kinds and self.parts.stages[position] is not None:
            message = f"must name a stage of kind {' or '.join(kinds)}"
            self.source.report(location, f"{message}; {start_from!r} is of kind {kind}")

    def _find_earlier(self, location: Location, index: int, name: str, *, base: bool) -> int | None:
        """The index of the stage called `name` before the one at `index`; reports if none is."""
        names = self.parts.stage_names
        if name in names[:index]:
            return names.index(name)
        shown = self._shown(location, name)
        if name in names:
            self.source.report(location, f"the stage {shown} does not come before this one")
            return None
        known = [BASE] * base + [earlier for earlier in names[:index] if earlier]
        self.source.report(location, f"there is no stage {shown}{did_you_mean(name, known)}")
        return None

    def _check_set(self, location: Location, name: str, kind: str) -> None:
        known = self.parts.problems if kind == "problems" else self.parts.traces
        if name not in known:
            shown = self._shown(location, name)
            message = f"there is no {shown} in data.{kind}{did_you_mean(name, known)}"
            self.source.report(location, message)

    def _shown(self, location: Location, name: str) -> str:
        return repr(name) if self.source.is_written(location) else f"{name!r} (the default)"

    def _check_problems(self, index: int, name: str, refused: set[str], doing: str) -> None:
        """The set exists, and is no benchmark and of none of the `refused` splits."""
        location = ("stages", index, "problems")
        self._check_set(location, name, "problems")
        problems, what = self.parts.problems.get(name), ""
        if isinstance(problems, BenchmarkProblems):
            what = "benchmark"
        elif isinstance(problems, GeneratedProblems) and problems.split in refused:
            what = f"{problems.split!r} set"
        if what:
            message = f"{name!r} is a {what}; {doing} would spoil the evaluation"
            self.source.report(location, message)

    def _check_training_set(self, index: int, name: str) -> None:
        """Files and hub data sets have no splits of ours: the same one must not serve both ends."""
        training = self.parts.problems.get(name)
        for other in self.parts.stages:
            if not isinstance(other, EvaluateStage | ProbeStage):
                continue
            tested = [other.problems] if isinstance(other, ProbeStage) else other.benchmarks
            if any(_overlap(training, self.parts.problems.get(problems)) for problems in tested):
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

    def _check_fuse_weights(self, index: int, stage: FuseStage) -> None:
        location = ("stages", index, "weights")
        if not stage.weights:
            return
        if not any(stage.weights.values()):
            self.source.report(location, "at least one weight must be above 0")
        probe = next((p for p in self.parts.stages if p and p.name == stage.start_from), None)
        name = probe.problems if isinstance(probe, ProbeStage) else ""
        problems = self.parts.problems.get(name)
        if not isinstance(problems, GeneratedProblems):
            return
        for subdomain in stage.weights:
            if subdomain not in problems.tasks:
                hint = did_you_mean(subdomain, problems.tasks)
                message = f"the probing set has no sub-domain {subdomain!r}{hint}"
                self.source.report((*location, subdomain), message)
        if missing := [name for name in problems.tasks if name not in stage.weights]:
            message = "give a weight (0 leaves one out) to each sub-domain; missing: "
            self.source.report(location, message + ", ".join(missing))

    def _check_evaluate(self, index: int, stage: EvaluateStage) -> None:
        for position, benchmark in enumerate(stage.benchmarks):
            self._check_set(("stages", index, "benchmarks", position), benchmark, "problems")
        for position, model in enumerate(stage.models):
            location = ("stages", index, "models", position)
            earlier = None
            if model != BASE:
                earlier = self._find_earlier(location, index, model, base=True)
            kind = None if earlier is None else self.parts.stage_kinds[earlier]
            if kind in ("distill", "filter", "evaluate", "export"):
                self.source.report(location, f"the stage {model!r} makes no model of its own")


def _overlap(a: ProblemSource | None, b: ProblemSource | None) -> bool:
    """Whether two problem sets are of one table, and not its two parts; generated ones never are,
    because their splits are disjoint.
    """
    if isinstance(a, BenchmarkProblems) and isinstance(b, BenchmarkProblems):
        return a.name == b.name
    if not (isinstance(a, ProblemTable) and isinstance(b, ProblemTable)):
        return False
    if (a.source, a.path, a.config, a.split) != (b.source, b.path, b.config, b.split):
        return False
    return {a.part, b.part} != {"train", "held-out"} or a.held_out != b.held_out


def _check_decontaminate(parts: RecipeParts, source: RecipeSource) -> None:
    """The sets to keep out of training exist, and none of them is trained on."""
    location = ("data", "decontaminate", "against")
    if not source.is_written(location):
        return
    names = source.data["data"]["decontaminate"]["against"]
    trained = {stage.problems for stage in parts.stages if isinstance(stage, LEARNERS)}
    for position, name in enumerate(names if isinstance(names, list) else []):
        if name not in parts.problems:
            hint = did_you_mean(str(name), parts.problems)
            source.report((*location, position), f"there is no {name!r} in data.problems{hint}")
        elif name in trained:
            source.report((*location, position), f"{name!r} is what a stage trains on")


def _check_rewards(parts: RecipeParts, source: RecipeSource, directory: Path) -> None:
    """A reward function where it is used, and only there; wrong options only of a choice."""
    for name, problems in parts.problems.items():
        if not isinstance(problems, ProblemTable):
            continue
        location = ("data", "problems", name)
        if problems.columns.incorrect and problems.verifier != "choice":
            message = f"only for verifier: choice, and this one is {problems.verifier}"
            source.report((*location, "columns", "incorrect"), message)
        if (problems.reward is not None) != (problems.verifier == "custom"):
            message = "verifier: custom needs a reward (file, function), and no other has one"
            source.report((*location, "reward" if problems.reward else "verifier"), message)
        elif problems.reward is not None:
            path = directory / Path(problems.reward.file).expanduser()
            _require_path(source, (*location, "reward", "file"), path)


def _check_files(parts: RecipeParts, source: RecipeSource, directory: Path) -> None:
    if isinstance(parts.model, PretrainedModel):
        _check_model(parts.model.path, source, directory)
    for kind, sets in (("problems", parts.problems), ("traces", parts.traces)):
        for name, table in sets.items():
            location: Location = ("data", kind, name)
            if isinstance(table, TraceMix):
                for position, part in enumerate(table.sets):
                    _check_table(part, source, (*location, "sets", position), directory)
            elif isinstance(table, Table):
                _check_table(table, source, location, directory)
            elif isinstance(table, BenchmarkProblems) and table.path:
                path = directory / Path(table.path).expanduser()
                _require_path(source, (*location, "path"), path)


def _check_table(table: Table, source: RecipeSource, location: Location, directory: Path) -> None:
    path = table.local_path(directory)
    if path is None:
        if is_local(table.path, directory):
            message = f"{table.path!r} is a path of this machine; use `source: file`"
            source.report((*location, "path"), message)
        return
    location = (*location, "path" if table.source == "file" else "local")
    is_unknown = not path.is_dir() and path.suffix not in TABLE_SUFFIXES
    if table.source == "file" and is_unknown:
        source.report(location, f"{table.path!r} must end in {', '.join(TABLE_SUFFIXES)}")
    else:
        _require_path(source, location, path)


def is_local(text: str, directory: Path) -> bool:
    """Whether a text names a place on this machine, and no OWNER/NAME on the hub."""
    begins_like_a_path = text.startswith((".", "/", "~"))
    return begins_like_a_path or (directory / text).exists()


def _require_path(source: RecipeSource, location: Location, path: Path) -> None:
    if not path.exists():
        source.report(location, f"there is no {path} (paths are relative to the recipe)")


def _check_model(text: str, source: RecipeSource, directory: Path) -> None:
    path = directory / Path(text).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            source.report(("model", "path"), f"{path} has no config.json: it is no model directory")
    elif not HUB_NAME.match(text) or is_local(text, directory):
        message = f"there is no directory {path} (paths are relative to the recipe)"
        source.report(("model", "path"), message)
