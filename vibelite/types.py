"""The values that flow through a run: row -> Problem -> Completion -> Verdict -> Group ->
TokenBatch -> StepRecord.

Every per-token array is indexed by the token it describes: `logprobs[t]` = log p(input_ids[t] |
input_ids[:t]). Position 0 of a sequence and the tokens of a prompt are masked. The shift happens
once, in `Policy.logprobs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

FinishReason = Literal["stop", "length"]
VerifierFailure = Literal["timeout", "crash", "exception"]
Message = dict[str, str]
# What verl adds to the standard deviation of a group's rewards; TRL adds 1e-4.
REWARD_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class Problem:
    """One question with a verifiable answer; `metadata` is what the check that `verifier` names
    (`vibelite.rewards.verifier`) needs beside it.
    """

    id: str
    subdomain: str
    messages: tuple[Message, ...]
    answer: str
    verifier: str
    domain: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trace:
    """A worked solution for fine-tuning, whose last message, the assistant's, is trained on; `path`
    names the way of solving, where a problem has several.
    """

    problem_id: str
    subdomain: str
    messages: tuple[Message, ...]
    path: str = ""


@dataclass(frozen=True, slots=True)
class Completion:
    """What an engine sampled for one prompt: `token_ids` [T], at the end the stop token where
    `finish_reason` is "stop"; `sampler_logprobs` [T] in nats under the sampling distribution; how
    many weight updates the engine had seen.
    """

    token_ids: tuple[int, ...]
    sampler_logprobs: tuple[float, ...]
    finish_reason: FinishReason
    text: str
    weights_version: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verifier's judgement of one completion: reward in [0, 1], and why. `correct` None = the
    verifier read it and cannot say; `failure` names what kept it from reading it at all.
    """

    reward: float
    correct: bool | None
    detail: str = ""
    failure: VerifierFailure | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """The G completions sampled for one problem, with their verdicts."""

    problem: Problem
    prompt_ids: tuple[int, ...]
    completions: tuple[Completion, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def rewards(self) -> list[float]:
        """Rewards [G], exactly as the verifier gave them."""
        return [verdict.reward for verdict in self.verdicts]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each completion [G]."""
        return [len(completion.token_ids) for completion in self.completions]

    @property
    def num_correct(self) -> int:
        return sum(verdict.correct is True for verdict in self.verdicts)

    @property
    def pass_rate(self) -> float:
        """Share of correct completions, 0..1."""
        return self.num_correct / len(self.verdicts)

    @property
    def mean_reward(self) -> float:
        """The pass rate where rewards are 0 or 1, and what stands for it where they are graded."""
        return fmean(self.rewards)

    @property
    def has_signal(self) -> bool:
        """Whether its rewards differ: the others have no gradient."""
        return rewards_differ(self.rewards)


def rewards_differ(rewards: Sequence[float]) -> bool:
    """Whether they are further apart than rounding puts equal ones: 0.1 + 0.2 is 0.3."""
    return max(rewards) - min(rewards) > REWARD_EPSILON


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Several sequences packed end to end into one row of N tokens, without padding.

    input_ids [N] int64; position_ids [N] int64, from 0 in each sequence; cu_seqlens [S+1] int32,
    where sequences begin and end; completion_mask [N] bool, True = trained (never a sequence's
    first token). [N] float32, zero outside the mask: token_weights, each token's share of the
    step's loss; for reinforcement learning advantages and sampler_logprobs.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    cu_seqlens: torch.Tensor
    completion_mask: torch.Tensor
    token_weights: torch.Tensor
    advantages: torch.Tensor
    sampler_logprobs: torch.Tensor | None = None

    @property
    def num_tokens(self) -> int:
        return self.input_ids.shape[0]

    @property
    def num_sequences(self) -> int:
        return self.cu_seqlens.shape[0] - 1

    @property
    def trained_lengths(self) -> torch.Tensor:
        """Trained tokens of each sequence [S], int64."""
        counts = self.completion_mask.cumsum(0)[self.cu_seqlens[1:].long() - 1]
        return counts.diff(prepend=counts.new_zeros(1))


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What one optimizer step did, one line of steps.jsonl.

    `seconds` by span, adding up to the step's wall time; `tokens` by use (generated, trained,
    prompt); `peak_bytes` by span, of the GPU where there is one, else resident; `counts` of
    completions (`completion_counts`). `joules` of the GPUs, the share of the time in which they
    worked, and USD are None where unknown: USD of the step, of the whole run so far, and projected
    to the end of the stage with their 80% interval (`telemetry.spending.project`).

    `zero_signal_share` of the cost went into groups of equal rewards; None in steps without groups.
    `health`: what is wrong, cause -> sentence (`telemetry.health`).

    On several ranks `seconds` is the leader's, `tokens` all ranks', `peak_bytes` the largest.
    """

    stage: str
    step: int
    metrics: dict[str, float]
    seconds: dict[str, float]
    tokens: dict[str, int]
    peak_bytes: dict[str, int]
    counts: dict[str, int] = field(default_factory=dict)
    joules: float | None = None
    gpu_use: float | None = None
    zero_signal_share: float | None = None
    usd: float | None = None
    usd_so_far: float | None = None
    usd_at_end_of_stage: tuple[float, float, float] | None = None
    health: dict[str, str] = field(default_factory=dict)
