"""Which charts are drawn for which numbers, and over what."""

import re

from vibelite.report.curves import CHARTS, MAX_POINTS, draw_stage, plan_charts, x_values

RECORDED = [
    "reward/mean", "reward/algebra", "reward/number", "groups/mixed", "new/metric", "span/train",
]  # fmt: skip


def planned(num_runs):
    charts = plan_charts(RECORDED, num_runs)
    return {chart.title: chart.keys for part in charts.values() for chart in part}


def a_line(step, usd: float | None = 0.5, **metrics):
    seconds, tokens = {"train": 2.0, "idle": 1.0}, {"generated": 10, "trained": 5}
    values = {"usd": usd, "peak_bytes": {"cpu": 1 << 30}, "metrics": metrics}
    return {"step": step, "seconds": seconds, "tokens": tokens, **values}


def test_every_recorded_number_is_in_exactly_one_chart():
    for num_runs in (1, 2):
        keys = [key for keys in planned(num_runs).values() for key in keys]
        assert sorted(keys) == sorted(RECORDED)
    keys = [key for charts in CHARTS.values() for chart in charts for key in chart.keys]
    assert len(keys) == len(set(keys))


def test_sub_domains_share_a_chart_in_one_run_and_part_in_several():
    assert planned(1)["Reward by sub-domain"] == ["reward/algebra", "reward/number"]
    assert planned(2)["Reward by sub-domain: number"] == ["reward/number"]


def test_lines_lie_over_what_was_used_up_to_and_with_their_step():
    lines = [a_line(3), a_line(4)]
    assert x_values(lines) == {
        "step": [3, 4], "tokens": [15, 30], "seconds": [3.0, 6.0], "USD": [0.5, 1.0],
    }  # fmt: skip
    assert "USD" not in x_values([*lines, a_line(5, usd=None)])


def test_time_is_told_by_span_and_no_money_where_there_is_none():
    (figures,) = [draw_stage({"run": [a_line(1), a_line(2)]})["Speed and money"]]
    (spans,) = [one for one in figures if "Seconds per step, by span" in one]
    assert re.findall('data-label="(.*?)" data-y="(.*?)"', spans) == [
        ("all", "3,3"), ("train", "2,2"), ("idle", "1,1"),
    ]  # fmt: skip
    assert any("USD per step" in one for one in figures)
    figures = draw_stage({"run": [a_line(1, usd=None)]})["Speed and money"]
    assert not any("USD per step" in one for one in figures)


def test_the_work_of_the_gpus_is_drawn_where_it_was_measured():
    lines = [a_line(step) | {"gpu_use": use} for step, use in ((1, 0.0), (2, None), (3, 0.75))]
    figure = draw_stage({"run": lines})["Speed and money"][-1]
    assert "in which the GPUs work" in figure and 'data-y="0,,0.75"' in figure
    figures = draw_stage({"run": [a_line(1) | {"gpu_use": None}]})["Speed and money"]
    assert not any("GPUs work" in one for one in figures)


def test_what_never_happened_is_shown_where_it_says_that_nothing_was_learned():
    nothing = {"reward/mean": 0.0, "policy/kl": 0.0}
    drawn = draw_stage({"run": [a_line(1, **nothing)]})
    assert "Reward, mean" in drawn["Learning"][0] and "More" not in drawn


def test_very_long_runs_are_thinned_and_keep_both_ends():
    lines = [a_line(step, usd=1.0) for step in range(1, 5001)]
    axes = x_values(lines)
    assert (len(axes["step"]), axes["step"][0], axes["step"][-1]) == (MAX_POINTS, 1, 5000)
    assert axes["USD"][-1] == 5000, "the sum is of all steps, drawn or not"
    (values, *_) = re.findall('data-y="(.*?)"', draw_stage({"run": lines})["Speed and money"][0])
    assert len(values.split(",")) == MAX_POINTS
