"""Length shaping in the MGPO stage: what advantages are computed from, and what a step reports."""

import pytest
from pydantic import ValidationError

from vibelite.recipe.stage_section import MGPOStage, Optimizer, Sampling
from vibelite.stages.shaped_rewards import shape_rewards, shaping_metrics
from vibelite.types import Completion, Group, Problem, Verdict


def stage(*, long2short: float = 0.0, overlong_margin: int = 0) -> MGPOStage:
    return MGPOStage(
        kind="mgpo",
        num_steps=1,
        sampling=Sampling(max_new_tokens=16),
        optimizer=Optimizer(lr=1e-3),
        long2short=long2short,
        overlong_margin=overlong_margin,
    )


def group(rewards: list[float], lengths: list[int]) -> Group:
    completions = tuple(
        Completion((5,) * n, (-1.0,) * n, "length" if n >= 16 else "stop", "") for n in lengths
    )
    verdicts = tuple(Verdict(reward, reward == 1) for reward in rewards)
    return Group(Problem("p", "s", (), "", "exact"), (1,), completions, verdicts)


GROUPS = [group([1, 1, 0], [5, 10, 14]), group([1, 1], [4, 4]), group([0, 0], [15, 16])]


def test_without_shaping_rewards_are_the_verifiers_and_nothing_is_reported() -> None:
    rewards = shape_rewards(stage(), GROUPS)
    assert rewards == [[1, 1, 0], [1, 1], [0, 0]]
    assert shaping_metrics(stage(), GROUPS, rewards) == {}


def test_long2short_acts_within_each_group_and_is_reported() -> None:
    shaped = stage(long2short=0.2)
    rewards = shape_rewards(shaped, GROUPS)
    assert rewards[0] == pytest.approx([1.2, 0.8, 0])
    assert rewards[1:] == [[1, 1], [0, 0]]
    metrics = shaping_metrics(shaped, GROUPS, rewards)
    assert metrics == pytest.approx(
        {
            "shaping/mean_shift": 0.0,
            "shaping/mean_abs_shift": 0.4 / 7,
            "shaping/correct_mean_tokens": 23 / 4,
        }
    )


def test_the_penalty_counts_from_the_stages_longest_completion() -> None:
    """With a margin of 4 of 16 tokens: 14 costs 0.5, 15 costs 0.75, 16 costs 1."""
    shaped = stage(overlong_margin=4)
    rewards = shape_rewards(shaped, GROUPS)
    assert rewards == [[1, 1, -0.5], [1, 1], [-0.75, -1]]
    metrics = shaping_metrics(shaped, GROUPS, rewards)
    assert metrics["shaping/mean_shift"] == pytest.approx(-2.25 / 7)
    assert metrics["shaping/overlong"] == pytest.approx(3 / 7)


def test_both_add_up() -> None:
    rewards = shape_rewards(stage(long2short=0.2, overlong_margin=8), [group([1, 1], [8, 12])])
    assert rewards[0] == pytest.approx([1.2, 0.8 - 0.5])


def test_a_step_without_a_correct_completion_has_no_length_of_them() -> None:
    shaped, wrong = stage(long2short=0.2), [GROUPS[2]]
    metrics = shaping_metrics(shaped, wrong, shape_rewards(shaped, wrong))
    assert "shaping/correct_mean_tokens" not in metrics


def test_a_margin_longer_than_the_completions_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"overlong_margin \(17\) must be at most"):
        stage(overlong_margin=17)
