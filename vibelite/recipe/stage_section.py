"""The recipe's stages, one model per kind, with their optimizer and sampling."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from vibelite.recipe.section import (
    Fraction,
    Name,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
)

# What `start_from` and `models` may name beside the stages: the model the recipe starts with.
BASE = "base"


def as_list(names: str | list[str]) -> list[str]:
    """The names of a field that takes one or several."""
    return [names] if isinstance(names, str) else names


class Optimizer(Section):
    kind: Literal["adamw", "muon", "adamw_8bit", "adamw_8bit_paged", "adamw_cpu"] = "adamw"
    """muon = torch.optim.Muon for matrices, AdamW for the rest; adamw_cpu = AdamW on the host."""
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


class SamplingStage(Stage):
    sampling: Sampling


class SolvingStage(SamplingStage):
    problems: Name = "train"


class TrainingStage(Stage):
    num_steps: PositiveInt
    tokens_per_micro_batch: PositiveInt = 8192
    """Packed tokens of one forward pass; changes memory and speed, never the gradient."""
    optimizer: Optimizer


class SFTStage(TrainingStage):
    kind: Literal["sft"]
    start_from: Name = BASE
    traces: Name | list[Name] = "traces"
    """A set of data.traces, or a `distill` or `filter` stage before this one; or several."""
    sequences_per_step: PositiveInt = 48
    tokens_per_micro_batch: PositiveInt = 4096
    max_tokens: PositiveInt = 512
    """Longer traces are dropped and counted."""
    checkpoint_every: PositiveInt
    """Steps between the checkpoints that `probe` chooses from."""


class ProbeStage(SamplingStage):
    kind: Literal["probe"]
    start_from: Name = "sft"
    problems: Name | list[Name] = "probe"
    """A problem set, or several, for instance one of each domain."""
    num_samples: PositiveInt = 16
    k: PositiveInt = 8
    """Pass@k chooses the specialists (unbiased estimator, so num_samples >= k)."""

    @model_validator(mode="after")
    def _enough_samples(self) -> ProbeStage:
        if self.num_samples < self.k:
            raise ValueError(f"num_samples ({self.num_samples}) must be at least k ({self.k})")
        return self


class FuseStage(Stage):
    kind: Literal["fuse"]
    start_from: Name = "probe"
    tail_average: NonNegativeInt = 4
    """Also average the last so many SFT checkpoints, a control without specialists; 0 = do not."""


class Memory(Section):
    """What earlier groups of a stage say of every problem's pass rate, and draws by it."""

    decay: Fraction = 0.0
    """Share of what is known that a step leaves; 0 = no memory: problems come in epochs. (own)"""
    floor: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Weight of a problem whose group is sure to be all right or all wrong, 1 where it is sure to
    be mixed: what keeps every problem coming. (own)"""


class Refill(Section):
    """Further problems within a step, in place of those whose groups have no signal."""

    max_rounds: NonNegativeInt = 0
    """Times that missing groups are sampled anew (DAPO: until none is missing); 0 = no refill."""


class MGPOStage(SolvingStage, TrainingStage):
    kind: Literal["mgpo"]
    start_from: Name = "fuse"
    problems_per_step: PositiveInt = 16
    group_size: Annotated[PositiveInt, Field(ge=2)] = 8
    """Completions per problem, G."""
    updates_per_rollout: PositiveInt = 1
    """1 = strictly on-policy: no old-logprob pass (VibeThinker-3B report 2.2.1)."""
    maxent_lambda: NonNegativeFloat = 1.0
    """Advantages of a group x exp(-lambda KL(pass rate || 0.5)); 0 = GRPO. Report: undisclosed."""
    entropy_coef: NonNegativeFloat = 0.0
    """Token-entropy bonus, per nat."""
    kl_coef: NonNegativeFloat = 0.0
    """KL penalty to the stage's starting weights; 0 = no reference model in memory."""
    long2short: NonNegativeFloat = 0.0
    """Largest shift of reward from long to short correct completions of a group; the sum stays
    (VibeThinker-3B report: 0.2, in a stage of its own)."""
    overlong_margin: NonNegativeInt = 0
    """Tokens before sampling.max_new_tokens over which the reward falls linearly by 1 (DAPO: 4096
    of 20480); 0 = no penalty."""
    clip_low: Fraction = 0.2
    clip_high: NonNegativeFloat = 0.2
    advantage: Literal["grpo", "no_std", "maxrl"] = "grpo"
    """(r - mean) / std; without std (Dr. GRPO); by the mean in its place (MaxRL)."""
    ratio: Literal["token", "sequence", "cispo"] = "token"
    """Of what the ratio to the rollout's policy is: tokens, completions (GSPO), or tokens with a
    clip that keeps every gradient (CISPO). With one update a rollout all are the same."""
    aggregation: Literal["sequence", "token", "constant"] = "sequence"
    """Loss average: per sequence (report 3.4), over tokens (DAPO), by max_new_tokens (Dr. GRPO)."""
    importance_cap: PositiveFloat = 2.0
    """Cap of the token-level truncated importance weight trainer/sampler."""
    memory: Memory = Memory()
    refill: Refill = Refill()
    prefilter_samples: NonNegativeInt = 0
    """Completions per problem that tell, before the stage, pass rates of 0 and 1; 0 = keep all."""
    prefilter_problems: NonNegativeInt = 0
    """How many problems, by the run's seed, to try for that; 0 = all."""
    checkpoint_every: PositiveInt = 10
    """Steps between resumable checkpoints."""
    keep_every: NonNegativeInt = 0
    """Steps between weights that are kept and can be evaluated; 0 = only the final ones."""

    @model_validator(mode="after")
    def _margin_within_length(self) -> MGPOStage:
        if self.overlong_margin > self.sampling.max_new_tokens:
            raise ValueError(
                f"overlong_margin ({self.overlong_margin}) must be at most "
                f"sampling.max_new_tokens ({self.sampling.max_new_tokens})"
            )
        if self.advantage == "maxrl" and self.overlong_margin:
            raise ValueError(
                "advantage: maxrl divides by the mean reward, which an overlong_margin "
                "may make 0: leave one of them out"
            )
        return self


class DistillStage(SolvingStage):
    """A trained model's own verified solutions as traces; an `sft` stage after it names it under
    `traces` (VibeThinker-3B report, offline self-distillation)."""

    kind: Literal["distill"]
    start_from: Name = "mgpo"
    """The stage whose model writes the solutions."""
    student: str = BASE
    """Whose log-likelihood scores them: the model that will be trained on them; a stage, `base`, a
    directory of a model, or a hub name."""
    num_samples: PositiveInt = 8
    min_tokens: NonNegativeInt = 16
    """Shorter answers are dropped."""
    keep_from: Annotated[float, Field(ge=0, lt=1)] = 0.4
    """Share of each sub-domain's length bucket, the easiest for the student, that is dropped beside
    high outliers (report: "middle to high"; the number is ours)."""
    max_per_problem: PositiveInt = 4
    tokens_per_micro_batch: PositiveInt = 8192


class FilterStage(SolvingStage):
    """The traces for a second, harder round of fine-tuning (VibeThinker-3B report 2.1); an `sft`
    stage after it names it under `traces`. A trace belongs to the problem of its id or its words.
    """

    kind: Literal["filter"]
    traces: Name = "traces"
    """A set of data.traces, or a `distill` or `filter` stage before this one."""
    start_from: str = BASE
    """The reference model: a problem is hard if its rollouts seldom solve it; a stage, `base`, a
    directory of a model, or a hub name."""
    num_samples: PositiveInt = 8
    """Rollouts per problem (report: 8)."""
    min_error_rate: Fraction = 0.75
    """Share of the rollouts that must not be right (report: 0.75); 0 = keep easy problems too."""
    min_tokens: NonNegativeInt = 5000
    """Traces with a shorter answer are dropped (report: 5K)."""
    max_repetition: Fraction = 0.5
    """Traces of which a larger share repeats itself word for word are dropped; 1 = none."""
    max_per_problem: PositiveInt = 8
    """At most so many different traces of one problem, from the top."""


class EvaluateStage(SamplingStage):
    kind: Literal["evaluate"]
    models: list[Name] = Field(default_factory=list)
    """Stages whose models are tested, and `base`; empty = all stages before this one."""
    benchmarks: Annotated[list[Name], Field(min_length=1)]
    """Problem sets."""
    num_samples: PositiveInt = 8
    k: list[PositiveInt] = [8]
    """Pass@k for each k, unbiased, so num_samples >= k."""

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
    SFTStage
    | ProbeStage
    | FuseStage
    | MGPOStage
    | DistillStage
    | FilterStage
    | EvaluateStage
    | ExportStage,
    Field(discriminator="kind"),
]
