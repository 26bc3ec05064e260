"""What an MGPO step reports, from its groups and from per-token diagnostics, and the mismatch that
stops it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import torch

from vibelite.algorithms.advantages import LengthShaping
from vibelite.algorithms.policy_loss import mismatch_metrics
from vibelite.errors import EngineError
from vibelite.recipe.schema import Recipe
from vibelite.rewards.failures import count_failures
from vibelite.types import Group


def rollout_metrics(groups: Sequence[Group], weights: Sequence[float]) -> dict[str, float]:
    """Rewards, lengths and how many groups carry signal; `weights` are the groups' MaxEnt weights.

    verify/... count completions: failures of the verifier by kind, and those that it read and could
    not judge.
    """
    equal = [group.pass_rate for group in groups if not group.has_signal]
    metrics = {
        "reward/mean": fmean(reward for group in groups for reward in group.rewards),
        "groups/all_correct": equal.count(1) / len(groups),
        "groups/all_wrong": equal.count(0) / len(groups),
        "groups/mixed": 1 - len(equal) / len(groups),
        "completion/mean_tokens": fmean(n for group in groups for n in group.lengths),
        "completion/truncated": fmean(
            completion.finish_reason == "length"
            for group in groups
            for completion in group.completions
        ),
    }
    verdicts = [verdict for group in groups for verdict in group.verdicts]
    for kind, count in count_failures(verdicts).items():
        metrics[f"verify/failures_{kind}"] = count
    metrics["verify/unverifiable"] = sum(
        verdict.correct is None and verdict.failure is None for verdict in verdicts
    )
    mixed = [weight for weight, group in zip(weights, groups, strict=True) if group.has_signal]
    if mixed:
        metrics["maxent/weight_mean"] = fmean(mixed)
    by_subdomain: dict[str, list[float]] = {}
    for group in groups:
        by_subdomain.setdefault(group.problem.subdomain, []).extend(group.rewards)
    return metrics | {f"reward/{name}": fmean(rewards) for name, rewards in by_subdomain.items()}


def shaping_metrics(
    shaping: LengthShaping, groups: Sequence[Group], rewards: Sequence[Sequence[float]]
) -> dict[str, float]:
    """What shaping did to a step's rewards; nothing where there was none. Means over completions:
    shaped minus verifier's reward, its size, penalised ones, and the length of correct ones.
    """
    if shaping.is_none:
        return {}
    before = [reward for group in groups for reward in group.rewards]
    after = [reward for values in rewards for reward in values]
    shifts = [new - old for old, new in zip(before, after, strict=True)]
    lengths = [length for group in groups for length in group.lengths]
    metrics = {
        "shaping/mean_shift": fmean(shifts),
        "shaping/mean_abs_shift": fmean(map(abs, shifts)),
    }
    if shaping.overlong_margin:
        first_penalised = shaping.max_length - shaping.overlong_margin
        metrics["shaping/overlong"] = fmean(length > first_penalised for length in lengths)
    if correct := [n for n, reward in zip(lengths, before, strict=True) if reward == 1]:
        metrics["shaping/correct_mean_tokens"] = fmean(correct)
    return metrics


def train_metrics(diagnostics: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, float]:
    """Token means over all micro-batches of one update."""
    joined = {
        key: torch.cat([part[key].reshape(-1) for part in diagnostics]) for key in diagnostics[0]
    }
    metrics = {
        "policy/loss": joined["loss"].sum().item(),
        "policy/entropy": joined["entropy"].mean().item(),
        "policy/clip_fraction": joined["clipped"].mean().item(),
        **mismatch_metrics(joined["mismatch"]),
    }
    if "kl" in joined:
        metrics["policy/kl"] = joined["kl"].mean().item()
    return metrics


def require_agreement(metrics: Mapping[str, float], recipe: Recipe) -> None:
    """EngineError where the KL in `mismatch_metrics` is above the recipe's limit, or no number."""
    kl, limit = metrics["mismatch/k3"], recipe.rollout.max_mismatch_kl
    if kl <= limit:  # False for NaN too
        return
    raise EngineError(
        f"the sampler is not the policy that is trained: KL {kl:.3g} nats per token, at most "
        f"{metrics['mismatch/max_abs']:.3g} apart, and rollout.max_mismatch_kl is {limit:g}; no "
        f"update was made. {possible_cause(recipe)}"
    )


def possible_cause(recipe: Recipe) -> str:
    """What can make the recipe's engine differ from its trainer, and what to do about it."""
    trained, sampled = recipe.training.dtype, recipe.rollout.vllm.dtype
    finer = "float32" if trained == "float16" else "float16 or float32"
    if recipe.rollout.engine == "transformers":
        if trained != "float32":
            return f"The engine has the trainer's weights, in {trained}: train in {finer}"
        return (
            "The engine has the trainer's weights in float32, so going on from its cache must "
            "differ from reading the whole text: use a model of a family in docs/models.md"
        )
    of_family = "if it stays, vLLM computes this family otherwise: use rollout.engine: transformers"
    if sampled not in ("auto", trained):
        return f"vLLM samples in {sampled}, training is in {trained}: use one type; {of_family}"
    if trained != "float32":
        return f"Both round to {trained}: train in {finer}; {of_family}"
    return f"No type rounds: {of_family.partition(', ')[2]}"
