"""The rewards that an MGPO step computes advantages from: the verifier's, shaped by length if the
recipe says so. Verdicts, pass rates and reward/mean stay the verifier's.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from vibelite.algorithms.reward_shaping import long2short, overlong_penalty
from vibelite.recipe.stage_section import MGPOStage
from vibelite.types import Group


def shape_rewards(stage: MGPOStage, groups: Sequence[Group]) -> list[list[float]]:
    """Rewards of each group [P][G]; exactly the verifier's where nothing is to be shaped."""
    return [_shape_group(stage, group) for group in groups]


def shaping_metrics(
    stage: MGPOStage, groups: Sequence[Group], rewards: Sequence[Sequence[float]]
) -> dict[str, float]:
    """What shaping did to a step's rewards; nothing where there was none.

    shaping/mean_shift: shaped minus verifier's reward, mean over all completions (0 for Long2Short
    alone, which moves reward within a group); shaping/mean_abs_shift: how much was moved;
    shaping/overlong: share of completions with a penalty; shaping/correct_mean_tokens: length of
    the correct ones, which shaping is to lower.
    """
    if not _is_shaped(stage):
        return {}
    before = [reward for group in groups for reward in group.rewards]
    shifts = [
        after - reward
        for reward, after in zip(before, (x for values in rewards for x in values), strict=True)
    ]
    lengths = [len(completion.token_ids) for group in groups for completion in group.completions]
    metrics = {
        "shaping/mean_shift": fmean(shifts),
        "shaping/mean_abs_shift": fmean(map(abs, shifts)),
    }
    if stage.overlong_margin:
        first_penalised = stage.sampling.max_new_tokens - stage.overlong_margin
        metrics["shaping/overlong"] = fmean(length > first_penalised for length in lengths)
    if correct := [n for n, reward in zip(lengths, before, strict=True) if reward == 1]:
        metrics["shaping/correct_mean_tokens"] = fmean(correct)
    return metrics


def _is_shaped(stage: MGPOStage) -> bool:
    return bool(stage.long2short or stage.overlong_margin)


def _shape_group(stage: MGPOStage, group: Group) -> list[float]:
    lengths = [len(completion.token_ids) for completion in group.completions]
    rewards = group.rewards
    if stage.long2short:
        rewards = long2short(rewards, lengths, strength=stage.long2short)
    if stage.overlong_margin:
        max_length, margin = stage.sampling.max_new_tokens, stage.overlong_margin
        rewards = [
            reward + overlong_penalty(length, max_length=max_length, margin=margin)
            for reward, length in zip(rewards, lengths, strict=True)
        ]
    return rewards
