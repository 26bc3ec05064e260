"""What an MGPO step reports: numbers from its groups and from per-token diagnostics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import torch

from vibelite.algorithms.advantages import maxent_weight
from vibelite.algorithms.mismatch import mismatch_metrics
from vibelite.rewards.failures import count_failures
from vibelite.types import Group


def rollout_metrics(groups: Sequence[Group], maxent_lambda: float) -> dict[str, float]:
    """Rewards, lengths and how many groups carry signal, from the rollout alone.

    verify/... are numbers of completions: failures of the verifier by kind, and unverifiable ones,
    which the verifier read and could not judge.
    """
    pass_rates = [group.pass_rate for group in groups]
    completions = [completion for group in groups for completion in group.completions]
    metrics = {
        "reward/mean": fmean(reward for group in groups for reward in group.rewards),
        "groups/all_correct": sum(rate == 1 for rate in pass_rates) / len(groups),
        "groups/all_wrong": sum(rate == 0 for rate in pass_rates) / len(groups),
        "groups/mixed": sum(0 < rate < 1 for rate in pass_rates) / len(groups),
        "completion/mean_tokens": fmean(len(completion.token_ids) for completion in completions),
        "completion/truncated": fmean(
            completion.finish_reason == "length" for completion in completions
        ),
    }
    verdicts = [verdict for group in groups for verdict in group.verdicts]
    for kind, count in count_failures(verdicts).items():
        metrics[f"verify/failures_{kind}"] = count
    metrics["verify/unverifiable"] = sum(
        verdict.correct is None and verdict.failure is None for verdict in verdicts
    )
    mixed = [maxent_weight(rate, maxent_lambda) for rate in pass_rates if 0 < rate < 1]
    if mixed:
        metrics["maxent/weight_mean"] = fmean(mixed)
    for subdomain in dict.fromkeys(group.problem.subdomain for group in groups):
        rewards = [
            reward
            for group in groups
            if group.problem.subdomain == subdomain
            for reward in group.rewards
        ]
        metrics[f"reward/{subdomain}"] = fmean(rewards)
    return metrics


def train_metrics(diagnostics: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, float]:
    """Token means over all micro-batches of one update. mismatch/rejected is the share of tokens
    left out with their completions.
    """
    joined = {
        key: torch.cat([part[key].reshape(-1) for part in diagnostics]) for key in diagnostics[0]
    }
    metrics = {
        "policy/loss": joined["loss"].sum().item(),
        "policy/entropy": joined["entropy"].mean().item(),
        "policy/clip_fraction": joined["clipped"].mean().item(),
        **mismatch_metrics(joined["mismatch"]),
    }
    if "rejected" in joined:
        metrics["mismatch/rejected"] = joined["rejected"].mean().item()
    if "kl" in joined:
        metrics["policy/kl"] = joined["kl"].mean().item()
    return metrics
