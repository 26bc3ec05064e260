"""Which charts are drawn for which metrics."""

from vibelite.report.curves import FRACTION, PLANS, ChartPlan, chart_plans, fitting_range

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
