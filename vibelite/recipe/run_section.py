"""How a run samples, verifies and pays."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vibelite.recipe.section import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
)


class VLLM(Section):
    """How vLLM runs in the trainer's process; read where rollout.engine is vllm."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type in which it samples; auto = that of the weights it is given."""
    sync: Literal["auto", "alias", "copy"] = "auto"
    """How it gets the trainer's weights: alias = one memory for both; copy = into its own tensors,
    adapters merged; auto = alias where possible."""
    max_prompt_tokens: PositiveInt = 2048
    """With max_new_tokens the window; a longer prompt leaves less room for completions."""
    cuda_graphs: Literal["off", "decode", "full"] = "decode"
    """decode = graphs without the compiler; full = compiled as well: minutes at the first start."""


class Rollout(Section):
    engine: Literal["transformers", "vllm"] = "transformers"
    tensor_parallel: PositiveInt = 1
    """GPUs that hold one vLLM engine together; divides num_gpus. 1 = an engine on every GPU, faster
    where a model fits one. May be changed between runs: the result changes by rounding alone."""
    vllm: VLLM = VLLM()
    max_mismatch_kl: PositiveFloat = 0.05
    """Nats per token (k3 estimate of KL(sampler || trainer)) above which a step stops the run;
    bfloat16 rounding alone gives about 0.001."""

    @model_validator(mode="after")
    def _slices_are_vllms_own(self) -> Rollout:
        if self.tensor_parallel == 1:
            return self
        if self.engine != "vllm":
            raise ValueError(
                f"tensor_parallel: {self.tensor_parallel} needs engine: vllm; with engine: "
                f"{self.engine} leave it out"
            )
        if self.vllm.sync == "alias":
            raise ValueError(
                "vllm.sync: alias needs whole tensors in the engine, and tensor_parallel: "
                f"{self.tensor_parallel} leaves it slices; use auto"
            )
        return self


class Verification(Section):
    """How completions are judged."""

    num_workers: NonNegativeInt = 0
    """Processes that verify while others still generate; 0 = one per processor, at most 8."""
    seconds: PositiveFloat = 10.0
    """Deadline of one completion, after which its verifier is killed and the miss counted;
    programs have the limits of their tests instead."""
    max_failure_rate: Fraction = 0.02
    """Share of a step's completions whose verifier may fail; above it the run stops."""


class Parallel(Section):
    """How several processes work together; read where there is more than one."""

    sharding: Literal["auto", "optimizer", "full"] = "auto"
    """optimizer = the GPUs share masters and moments; full = weights and gradients too, gathered
    layer by layer (FSDP2); auto = full where these would fill more than 40 % of a GPU."""


class Checkpoint(Section):
    """Resumable training states. May be changed between runs: no result depends on it."""

    by: Literal["steps", "time"] = "steps"
    """steps = after every stage's `checkpoint_every` steps; time = as often as loses least, by
    what a save was measured to take (Young)."""
    keep_last: PositiveInt = 2
    """States kept while a stage trains; the second is for when the newest turns out damaged."""
    free_gib: NonNegativeFloat = 1.0
    """GiB to leave free on the disk: a state or model that would take of them is not begun."""


class Budget(Section):
    """Limits over the whole run, restarts included; null = none. May be changed between runs."""

    usd: Annotated[float, Field(gt=0)] | None = None
    """Needs a price in cost."""
    hours: Annotated[float, Field(gt=0)] | None = None
    """Of the machine, from the start of each process to its end."""
    steps_without_signal: NonNegativeInt = 10
    """MGPO steps in a row without rewards that differ in any group, after which the run ends with
    exit code 1; 0 = no such limit."""


class Cost(Section):
    """What the machine is and costs; without a price time, tokens and energy are reported, and no
    money. May be changed between runs: what has passed keeps its price.
    """

    gpu: str = ""
    """The GPU that `vibelite plan` plans for; cpu = none, "" = that of the machine it runs on."""
    usd_per_hour: Annotated[float, Field(gt=0)] | None = None
    """Price of the whole machine per hour."""
    usd_per_gpu_hour: Annotated[float, Field(gt=0)] | None = None
    """Price per hour of each of its GPUs; instead of usd_per_hour."""
    source: str = ""
    """Who asks this price, and on which day it was read; printed with every sum."""

    @model_validator(mode="after")
    def _one_price(self) -> Cost:
        if self.usd_per_hour is not None and self.usd_per_gpu_hour is not None:
            raise ValueError("give only one of usd_per_hour and usd_per_gpu_hour")
        return self

    def times(self, num_machines: int) -> Cost:
        """What so many machines of this kind cost; a price per GPU counts all of them anyway."""
        if self.usd_per_hour is None:
            return self
        return self.model_copy(update={"usd_per_hour": self.usd_per_hour * num_machines})

    @property
    def has_price(self) -> bool:
        return self.usd_per_hour is not None or self.usd_per_gpu_hour is not None
