"""The recipe's data: problems with verifiable answers, and worked solutions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from vibelite.recipe.section import Fraction, Name, PositiveInt, Section


class GeneratedTask(Section):
    """One reasoning-gym generator, as one sub-domain."""

    dataset: str
    """Name of the reasoning-gym data set, for instance `gcd`."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of that data set."""
    instruction: str = ""
    """Appended to the question; empty = the project's answer format for this task."""


class GeneratedProblems(Section):
    """Problems from reasoning-gym. The hash of a problem's core chooses its split, for any seed."""

    source: Literal["reasoning_gym"]
    split: Literal["train", "probe", "test"]
    num_problems: PositiveInt
    """Per sub-domain."""
    tasks: Annotated[dict[Name, GeneratedTask], Field(min_length=1)]
    """Sub-domain -> generator."""


class Columns(Section):
    """Which columns of a table hold what. A prompt is a string or a list of chat messages."""

    prompt: str = "prompt"
    answer: str = "answer"
    """A dotted path reaches into structs, for instance reward_model.ground_truth."""
    incorrect: list[str] = Field(default_factory=list)
    """Of a multiple choice: columns of the wrong options, beside the right one in `answer`; empty
    = the prompt lists options "A. ..." and `answer` is a letter."""
    tests: str = "tests"
    """Under `verifier: code`: a list of tests as `vibelite verify` reads it, its JSON text, or
    TACO's form; a column `limits` is read too. LiveCodeBench's own columns need neither."""
    rules: str = "rules"
    """Under `verifier: instruct`, in place of `answer`: the rules of rewards/instruct.py."""
    subdomain: str | None = None
    subdomains: dict[str, Name] = Field(default_factory=dict)
    """Value of that column -> the sub-domain that it means; other values are their own."""
    id: str | None = None


class RewardFunction(Section):
    """A user's own verifier: `(problem, completion_text) -> float | Verdict`, the float in 0..1
    and 1 for a right answer. It runs in the verifier's processes, within their deadline."""

    file: str
    """A Python file, relative to the recipe."""
    function: str = "score"


class Table(Section):
    """Rows of a local file, or of a Hugging Face data set."""

    source: Literal["file", "hub"]
    path: str
    """A .jsonl, .json, .csv or .parquet file or a directory of .parquet files; a hub's name."""
    config: str | None = None
    split: str = "train"
    revision: str = "main"
    local: str = ""
    """A copy of the hub's data set to read instead; empty = from the hub, or its cache."""
    where: dict[str, list[str | int]] = Field(default_factory=dict)
    """Column -> values: only rows that have one of them there."""

    @model_validator(mode="after")
    def _files_have_no_revision(self) -> Self:
        hub_only = (self.config, self.split, self.revision, self.local)
        if self.source == "file" and hub_only != (None, "train", "main", ""):
            raise ValueError("config, split, revision and local are for source: hub")
        return self

    def local_path(self, recipe_dir: Path) -> Path | None:
        """The file or directory to read; None where the rows are the hub's."""
        text = self.path if self.source == "file" else self.local
        return recipe_dir / Path(text).expanduser() if text else None


class LimitedProblems(Section):
    """A problem set of which some may be enough."""

    num_problems: PositiveInt | None = None
    """A sample of N, by the run's seed; null = all."""


class ProblemTable(Table, LimitedProblems):
    """Problems from the rows of a table."""

    columns: Columns = Columns()
    verifier: Literal["math", "exact", "choice", "code", "instruct", "custom"] = "math"
    reward: RewardFunction | None = None
    """What judges completions under `verifier: custom`, and only there."""
    instruction: str = ""
    """Appended to every prompt, after an empty line: in which form to answer."""
    subdomain: Name = "all"
    """Used where `columns.subdomain` is not set."""
    part: Literal["all", "train", "held-out"] = "all"
    """Two problem sets of one table, to train and to test on, by the hash of a row's prompt."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the rows that are held out."""
    num_per_subdomain: PositiveInt | None = None
    """A sample of N of each sub-domain, by the run's seed; null = all."""
    max_unusable: Fraction = 0.0
    """Share of the rows that may be left out, with a note, because they cannot be used."""


class BenchmarkProblems(LimitedProblems):
    """A benchmark of the VibeThinker reports, to test on."""

    source: Literal["benchmark"]
    name: Literal[
        "aime24", "aime25", "aime26", "hmmt25", "brumo25", "math500", "gpqa", "lcb-v5", "lcb-v6"
    ]
    path: str = ""
    """A local file, or a directory of LiveCodeBench's; empty = from the hub."""


ProblemSource = Annotated[
    GeneratedProblems | ProblemTable | BenchmarkProblems, Field(discriminator="source")
]


def has_programs(source: ProblemSource) -> bool:
    """Whether completions of these problems are programs, which need a sandbox."""
    if isinstance(source, BenchmarkProblems):
        return source.name.startswith("lcb-")
    return isinstance(source, ProblemTable) and source.verifier == "code"


class WorkedTraces(Section):
    """Worked solutions of generated problems, several paths each, all passed by the verifier."""

    source: Literal["worked"]
    problems: Name
    """The problem set to solve."""
    paths_per_problem: PositiveInt = 3
    """Keep only the first N solutions of each problem, all by different paths."""


class TraceTable(Table):
    """Traces from the rows of a table."""

    messages_column: str = "messages"
    """Chat messages, the last the answer, with `role` and `content` (or `from` and `value`)."""
    completion_column: str | None = None
    """Where the answer is a column of its own; `messages_column` then holds the question. A list
    is several answers, each a trace."""
    verified_column: str | None = None
    """Of a list of answers: a list as long, and only answers that are true there are taken."""
    subdomain_column: str | None = None
    """Where the sub-domain is; null = all traces are of the sub-domain `all`."""
    paths_per_problem: PositiveInt | None = None
    """A sample of at most N traces with the same question, by the run's seed; null = all."""
    num_traces: PositiveInt | None = None
    """A sample of N, by the run's seed, answers of a row together; null = all."""

    @model_validator(mode="after")
    def _answers_are_verified(self) -> Self:
        if self.verified_column and not self.completion_column:
            raise ValueError("verified_column is for the list in completion_column, which is unset")
        return self


class TraceMix(Section):
    """Several sets of traces as one, for a stage that learns from all of them at once."""

    source: Literal["mix"]
    sets: Annotated[list[TraceTable], Field(min_length=1)]


TraceSource = Annotated[WorkedTraces | TraceTable | TraceMix, Field(discriminator="source")]


class Decontaminate(Section):
    """Drops what repeats evaluation problems from everything that is trained on."""

    against: Annotated[list[Name], Field(min_length=1)]
    """Problem sets of which nothing may be trained on."""
    max_repetition: Fraction = 0.5
    """Traces of which a larger share repeats itself word for word are dropped; 1 = none."""


class Data(Section):
    problems: dict[Name, ProblemSource] = Field(default_factory=dict)
    """Named problem sets; stages refer to them."""
    traces: dict[Name, TraceSource] = Field(default_factory=dict)
    """Named sets of worked solutions for supervised fine-tuning."""
    decontaminate: Decontaminate | None = None
    """null = train on everything."""
    system_prompt: str = ""
    """Put before every prompt as a system message; empty = none."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """What the model's chat template is told, for instance {enable_thinking: false}."""
