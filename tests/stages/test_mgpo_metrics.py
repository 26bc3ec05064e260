"""What an MGPO step reports of its groups, by hand."""

import math
import re
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from vibelite.algorithms.advantages import LengthShaping
from vibelite.algorithms.policy_loss import mismatch_metrics
from vibelite.errors import EngineError
from vibelite.recipe.schema import Recipe
from vibelite.recipe.stage_section import MGPOStage, Optimizer, Sampling
from vibelite.stages.mgpo_metrics import (
    possible_cause,
    require_agreement,
    rollout_metrics,
    shaping_metrics,
)
from vibelite.types import Completion, Group, Problem, Verdict


def group(rewards: list[float], lengths: list[int], subdomain: str = "s") -> Group:
    completions = tuple(
        Completion((5,) * n, (-1.0,) * n, "length" if n >= 16 else "stop", "") for n in lengths
    )
    verdicts = tuple(Verdict(reward, reward == 1) for reward in rewards)
    return Group(Problem("p", subdomain, (), "", "exact"), (1,), completions, verdicts)


GROUPS = [group([1, 1, 0], [5, 10, 14]), group([1, 1], [4, 4]), group([0, 0], [15, 16], "t")]


def test_rollout_metrics() -> None:
    metrics = rollout_metrics(GROUPS, [0.9, 0.5, 0.5])
    assert metrics["reward/mean"] == pytest.approx(4 / 7)
    assert metrics["groups/all_correct"] == metrics["groups/all_wrong"] == pytest.approx(1 / 3)
    assert metrics["groups/mixed"] == pytest.approx(1 / 3)
    assert metrics["reward/s"] == pytest.approx(4 / 5)
    assert metrics["reward/t"] == 0
    assert metrics["maxent/weight_mean"] == 0.9, "of the mixed group alone"
    assert metrics["completion/truncated"] == pytest.approx(1 / 7)
    assert metrics["completion/mean_tokens"] == pytest.approx(68 / 7)


def test_graded_groups_have_a_signal_where_their_rewards_differ() -> None:
    """None of these completions is correct; two of the groups have nothing to teach."""
    groups = [group([0.2, 0.6], [1, 1]), group([0.3, 0.1 + 0.2], [1, 1]), group([0, 0], [1, 1])]
    metrics = rollout_metrics(groups, [0.9, 0.5, 0.5])
    assert metrics["groups/mixed"] == pytest.approx(1 / 3)
    assert (metrics["groups/all_correct"], metrics["groups/all_wrong"]) == (0, 2 / 3)
    assert metrics["maxent/weight_mean"] == 0.9
    assert (groups[0].mean_reward, groups[0].pass_rate) == (pytest.approx(0.4), 0)


def test_without_shaping_nothing_is_reported() -> None:
    rewards = [group.rewards for group in GROUPS]
    assert shaping_metrics(LengthShaping(max_length=16), GROUPS, rewards) == {}


def test_long2short_moves_rewards_and_keeps_their_sum() -> None:
    rewards = [[1.2, 0.8, 0], [1, 1], [0, 0]]
    assert shaping_metrics(LengthShaping(long2short=0.2), GROUPS, rewards) == pytest.approx(
        {
            "shaping/mean_shift": 0.0,
            "shaping/mean_abs_shift": 0.4 / 7,
            "shaping/correct_mean_tokens": 23 / 4,
        }
    )


def test_the_penalty_counts_from_the_longest_completion() -> None:
    """With a margin of 4 of 16 tokens: 14 costs 0.5, 15 costs 0.75, 16 costs 1."""
    shaping = LengthShaping(overlong_margin=4, max_length=16)
    metrics = shaping_metrics(shaping, GROUPS, [[1, 1, -0.5], [1, 1], [-0.75, -1]])
    assert metrics["shaping/mean_shift"] == pytest.approx(-2.25 / 7)
    assert metrics["shaping/overlong"] == pytest.approx(3 / 7)


def test_a_step_without_a_correct_completion_has_no_length_of_them() -> None:
    metrics = shaping_metrics(LengthShaping(long2short=0.2), [GROUPS[2]], [[0, 0]])
    assert "shaping/correct_mean_tokens" not in metrics


def test_a_margin_longer_than_the_completions_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"overlong_margin \(17\) must be at most"):
        MGPOStage(
            kind="mgpo",
            num_steps=1,
            sampling=Sampling(max_new_tokens=16),
            optimizer=Optimizer(lr=1e-3),
            overlong_margin=17,
        )


def recipe(limit: float = 0.05, **changes: Any) -> Recipe:
    rollout = {"max_mismatch_kl": limit, **changes.pop("rollout", {})}
    model = {"source": "pretrained", "path": "x"}
    stages = [{"kind": "export", "start_from": "base"}]
    values = {"name": "r", "model": model, "data": {}, "stages": stages, "rollout": rollout}
    return Recipe.model_validate(values | changes)


def test_a_mismatch_at_the_limit_passes():
    metrics = mismatch_metrics(torch.tensor([0.1, -0.1, 0.2]))
    require_agreement(metrics, recipe(metrics["mismatch/k3"]))


@pytest.mark.parametrize("log_ratios", [[1.0, -1.0], [math.nan, 0.0], [math.inf, 0.0]])
def test_a_mismatch_above_the_limit_or_without_a_number_stops_the_run(log_ratios):
    with pytest.raises(EngineError, match=r"max_mismatch_kl is 0\.05; no update was made"):
        require_agreement(mismatch_metrics(torch.tensor(log_ratios)), recipe())


VLLM = {"engine": "vllm"}


@pytest.mark.parametrize(
    ("rollout", "dtype", "named", "absent"),
    [
        ({}, "float32", "from its cache", "vLLM|float16"),
        ({}, "bfloat16", "train in float16 or float32", "vLLM|cache"),
        ({}, "float16", "train in float32", "vLLM|cache"),
        (VLLM, "float32", "vLLM computes this family", "round to|one type"),
        (VLLM, "bfloat16", "float16 or float32; if it stays, vLLM", "one type"),
        (VLLM | {"vllm": {"dtype": "bfloat16"}}, "float32", "use one type", "round to"),
    ],
)
def test_only_causes_that_are_possible_in_the_run_are_named(rollout, dtype, named, absent):
    cause = possible_cause(recipe(rollout=rollout, training={"dtype": dtype}))
    assert re.search(named, cause) and not re.search(absent, cause), cause
