"""How a run samples, verifies and pays."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vibelite.recipe.section import Fraction, NonNegativeInt, PositiveFloat, Section


class Rollout(Section):
    engine: Literal["transformers"] = "transformers"


class Verification(Section):
    """How completions are judged."""

    num_workers: NonNegativeInt = 0
    """Processes that verify while others still generate; 0 = one per processor, at most 8."""
    seconds: PositiveFloat = 10.0
    """Deadline of one completion; a verifier that misses it is killed and the miss is counted."""
    max_failure_rate: Fraction = 0.02
    """Share of a step's completions whose verifier may crash, time out or raise; above it the run
    stops."""
    allow_weak_sandbox: bool = False
    """Run model-written programs even where the sandbox's self-test fails: they can then read and
    change what this user can. Only for machines on which nothing matters."""


class Budget(Section):
    """Limits over the whole run, restarts included; null = none. May be changed between runs."""

    usd: Annotated[float, Field(gt=0)] | None = None
    """Needs cost.usd_per_hour."""
    hours: Annotated[float, Field(gt=0)] | None = None


class Cost(Section):
    """What the machine costs. Without a price only time and tokens are reported."""

    usd_per_hour: Annotated[float, Field(gt=0)] | None = None
    """Price of the whole machine per hour."""
    source: str = ""
    """Where the price comes from, with its date; printed beside every sum."""
