"""The clipped policy-gradient loss of GRPO and MGPO, per token, and its diagnostics. Pure functions
on [N] tensors.

A step's loss is a plain sum over its tokens: the average of the objective is in `token_weights`,
computed once over the whole step, so that the split into micro-batches cannot change the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import torch

Aggregation = Literal["sequence", "token", "constant"]
Ratio = Literal["token", "sequence", "cispo"]


def token_weights(
    lengths: torch.Tensor, aggregation: Aggregation, max_new_tokens: int
) -> torch.Tensor:
    """The weight of one token in each completion, [num_completions] float32; weights x lengths sum
    to at most 1.

    `lengths` [num_completions]: trained tokens of every completion of the step, also of those whose
    advantage is 0. sequence: 1 / (num_completions |y_i|), the report's average (VibeThinker report
    3.4); token: 1 / sum_i |y_i| (DAPO); constant: 1 / (num_completions max_new_tokens) (Dr. GRPO).
    """
    lengths = lengths.to(torch.float32)
    match aggregation:
        case "sequence":
            return 1.0 / (lengths.clamp(min=1) * len(lengths))
        case "token":
            return torch.full_like(lengths, 1.0) / lengths.sum().clamp(min=1)
        case "constant":
            return torch.full_like(lengths, 1.0 / (len(lengths) * max_new_tokens))


@dataclass(frozen=True, slots=True)
class LossSettings:
    """Constants of the loss; ratios are clipped to [1 - clip_low, 1 + clip_high]."""

    clip_low: float = 0.2
    clip_high: float = 0.2
    entropy_coef: float = 0.0
    kl_coef: float = 0.0
    importance_cap: float = 2.0
    ratio: Ratio = "token"
    """token: PPO's clipped ratio; sequence: the same with that of the whole completion (GSPO);
    cispo: the clipped ratio as a constant weight, so that no token loses its gradient."""


@dataclass(frozen=True, slots=True)
class LossInputs:
    """What is known of each trained token before the forward pass; all [N] float32.

    `old_logprobs` None = strictly on-policy: the ratio is 1 and its gradient that of the log-prob.
    `sampler_logprobs` None = no correction for the mismatch between sampler and trainer.
    `sequence_ratios`: of each token's completion, where they replace its own.
    """

    advantages: torch.Tensor
    token_weights: torch.Tensor
    old_logprobs: torch.Tensor | None = None
    sampler_logprobs: torch.Tensor | None = None
    ref_logprobs: torch.Tensor | None = None
    sequence_ratios: torch.Tensor | None = None

    def at(self, rows: slice) -> LossInputs:
        """The inputs of some of the tokens."""
        known = {
            field.name: value[rows]
            for field in fields(self)
            if (value := getattr(self, field.name)) is not None
        }
        return LossInputs(**known)


def policy_loss(
    logprobs: torch.Tensor, entropy: torch.Tensor, inputs: LossInputs, settings: LossSettings
) -> torch.Tensor:
    """The loss of each token [N], to be summed and minimised; logprobs and entropy are [N].

    loss_t = -w_t [ c_t J_t + entropy_coef H_t - kl_coef (logp - ref)^2 / 2 ], with
    J_t = min(rho_t A_t, clip(rho_t) A_t) and rho the ratio to `old_logprobs` (VibeThinker report
    3.4), or that of the completion (GSPO, arXiv 2507.18071, its token form); under cispo
    J_t = clip(rho_t) A_t logp_t with the ratio a constant (MiniMax-M1, arXiv 2506.13585).
    c_t = min(exp(old - sampler), cap) is the truncated importance weight, a constant. `A` already
    contains the MaxEnt weight. The squared difference has the gradient of KL(policy || reference);
    that of k3, a better estimate of its value, is the other direction's (arXiv 2510.01555).
    """
    old_logprobs = logprobs.detach() if inputs.old_logprobs is None else inputs.old_logprobs
    ratio, clipped = ratios(logprobs, old_logprobs, inputs, settings)
    if settings.ratio == "cispo":
        objective = clipped.detach() * inputs.advantages * logprobs
    else:
        objective = torch.minimum(ratio * inputs.advantages, clipped * inputs.advantages)
    if inputs.sampler_logprobs is not None:
        importance = torch.exp(old_logprobs - inputs.sampler_logprobs)
        objective = objective * importance.clamp(max=settings.importance_cap)
    if settings.entropy_coef:
        objective = objective + settings.entropy_coef * entropy
    if inputs.ref_logprobs is not None:
        objective = objective - settings.kl_coef * (logprobs - inputs.ref_logprobs).square() / 2
    return -inputs.token_weights * objective


def ratios(
    logprobs: torch.Tensor, old_logprobs: torch.Tensor, inputs: LossInputs, settings: LossSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each token's ratio [N], and the same within the clip."""
    ratio = torch.exp(logprobs - old_logprobs)
    if inputs.sequence_ratios is not None:
        ratio = inputs.sequence_ratios * torch.exp(logprobs - logprobs.detach())
    return ratio, ratio.clamp(1 - settings.clip_low, 1 + settings.clip_high)


def sequence_ratios(log_ratios: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """exp of the mean log-ratio of each token's completion, [N]; `lengths` [S] of the completions
    that follow one another in `log_ratios` [N] (GSPO, arXiv 2507.18071).
    """
    means = torch.stack([part.mean() for part in log_ratios.split(lengths.tolist())])
    return torch.exp(means).repeat_interleave(lengths.to(means.device))


def k3(logprobs: torch.Tensor, ref_logprobs: torch.Tensor) -> torch.Tensor:
    """Per-token estimate [N] of KL(policy || reference) in nats, never negative."""
    log_ratio = ref_logprobs - logprobs
    return torch.exp(log_ratio) - log_ratio - 1


@torch.no_grad()
def policy_diagnostics(
    logprobs: torch.Tensor, inputs: LossInputs, settings: LossSettings
) -> dict[str, torch.Tensor]:
    """Per token [N]: was the clip active, trainer - sampler log-prob, KL to the reference."""
    old_logprobs = logprobs if inputs.old_logprobs is None else inputs.old_logprobs
    ratio, clipped = ratios(logprobs, old_logprobs, inputs, settings)
    is_clipped = ratio * inputs.advantages > clipped * inputs.advantages
    diagnostics = {"clipped": is_clipped.float()}
    if inputs.sampler_logprobs is not None:
        diagnostics["mismatch"] = old_logprobs - inputs.sampler_logprobs
    if inputs.ref_logprobs is not None:
        diagnostics["kl"] = k3(logprobs, inputs.ref_logprobs)
    return diagnostics


def mismatch_metrics(log_ratios: torch.Tensor) -> dict[str, float]:
    """Statistics over the log-ratios d [N] = trainer - sampler, in nats, of N tokens that the
    sampler drew.

    mean_abs, max_abs of d; k3 = mean(exp(d) - 1 - d), an unbiased estimate of KL(sampler ||
    trainer) per token with every term >= 0 (Schulman, "Approximating KL divergence", 2020);
    effective_sample_share = (sum w)^2 / (N sum w^2) of the weights w = exp(d), 0..1: the share of
    as many tokens drawn from the trainer that would estimate a mean as well (Kong, 1992).
    """
    d = log_ratios.double()
    # expm1: exp(d) - 1 would lose everything below 1e-7 to cancellation, and so turn negative.
    k3 = torch.expm1(d) - d
    # Weights relative to the largest: their scale cancels, and none overflows.
    weights = torch.exp(d - d.max())
    share = weights.sum().square() / (len(d) * weights.square().sum())
    return {
        "mismatch/mean_abs": d.abs().mean().item(),
        "mismatch/max_abs": d.abs().max().item(),
        "mismatch/k3": k3.mean().item(),
        "mismatch/effective_sample_share": share.item(),
    }
