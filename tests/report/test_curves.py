"""Which charts are drawn for which metrics."""

import pytest

from vibelite.report.curves import (
    FRACTION,
    MAX_AMOUNTS,
    PLANS,
    ChartPlan,
    amounts_of,
    chart_plans,
    fitting_range,
)

RECORDED = ["reward/mean", "reward/algebra", "reward/number", "groups/mixed", "new/metric"]


def test_every_recorded_metric_is_in_exactly_one_plan():
    for num_runs in (1, 2):
        planned = [key for plan in chart_plans(RECORDED, num_runs) for key in plan.metrics]
        assert [planned.count(key) for key in RECORDED] == [1] * len(RECORDED)
        assert len(planned) == len(set(planned))


def test_sub_domains_share_a_chart_in_one_run_and_part_in_several():
    titles = {plan.title: plan for plan in chart_plans(RECORDED, 1)}
    assert titles["Reward by sub-domain"].metrics == {
        "reward/algebra": "algebra",
        "reward/number": "number",
    }
    titles = {plan.title: plan for plan in chart_plans(RECORDED, 2)}
    assert titles["Reward by sub-domain: number"].metrics == {"reward/number": "number"}
    assert titles["Reward by sub-domain: number"].y_range == FRACTION
    assert not titles["Learning rate"].is_noisy


def test_no_metric_is_planned_twice():
    keys = [key for plan in PLANS for key in plan.metrics]
    assert len(keys) == len(set(keys))


def test_a_fixed_range_gives_way_to_values_outside_it():
    plan = ChartPlan("reward", {"reward/mean": "reward"}, FRACTION)
    assert fitting_range(plan, [0.0, 1.0]) == FRACTION
    assert fitting_range(plan, [0.5, 1.5]) is None


def line_of(step: int, usd: float | None = 0.5, **tokens: int):
    return {"step": step, "usd": usd, "seconds": {"rollout": 60, "train": 30}, "tokens": tokens}


def test_other_axes_are_what_was_used_up_to_a_step():
    lines = [line_of(1, generated=10, trained=5), line_of(2, generated=20, prompt=99)]
    assert amounts_of(lines) == {
        "step": [1, 2], "tokens": [15, 35], "minutes": [1.5, 3], "USD": [0.5, 1.0]
    }  # fmt: skip
    assert "USD" not in amounts_of([*lines, line_of(3, usd=None)])
    many = amounts_of([line_of(step) for step in range(1, 1001)])
    assert {len(values) for values in many.values()} == {MAX_AMOUNTS}
    assert many["minutes"][-1] == pytest.approx(1500)
