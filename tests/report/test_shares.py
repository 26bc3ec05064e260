"""The charts of parts of a whole, against numbers worked out by hand."""

import re

import pytest

from vibelite.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from vibelite.report.shares import (
    MAX_BARS,
    MAX_COLUMNS,
    outcomes_chart,
    projection_chart,
    span_amounts,
    spans_chart,
)


def line(step: int, usd: float | None = 4.0, **seconds: float):
    return {"step": step, "usd": usd, "seconds": seconds}


def bars(chart, color):
    """(left, bottom, top, right) of every bar of one colour."""
    (path,) = re.findall(rf'<path class="area c{color}" d="(.*?)"', str(chart))
    return [tuple(map(float, bar)) for bar in re.findall(r"M(.*?) (.*?)V(.*?)H(.*?)V", path)]


def test_money_is_divided_as_time_is():
    assert span_amounts(line(1, rollout=3.0, train=1.0), True) == {"rollout": 3.0, "train": 1.0}
    assert span_amounts(line(1, usd=8.0, rollout=3.0, train=1.0), True)["rollout"] == 6.0
    assert span_amounts(line(1, usd=None, rollout=3.0, train=1.0), False)["train"] == 1.0


def test_bars_stand_on_each_other_and_reach_the_step_s_sum():
    chart = spans_chart([line(1, rollout=3.0, train=1.0), line(2, usd=2.0, rollout=1.0)])
    rollout, train = bars(chart, 0), bars(chart, 1)
    assert len(rollout) == 2 and len(train) == 1, "no bar where a span took no time"
    left, bottom, top, right = rollout[0]
    middle = LEFT + (WIDTH - RIGHT - LEFT) / 2
    assert (left, bottom, right) == (LEFT, HEIGHT - BOTTOM, middle)
    plot = HEIGHT - BOTTOM - TOP
    assert bottom - top == pytest.approx(plot * 3 / 4)
    assert train[0][1:3] == (top, TOP), "4 USD are the top of the axis"
    assert bottom - rollout[1][2] == pytest.approx(plot * 2 / 4)
    assert "step 1 (USD): rollout 3, train 1" in chart
    assert "USD per step, by span" in chart


def test_without_a_price_bars_are_seconds():
    chart = spans_chart([line(1, usd=None, train=2.0), line(2, usd=None, train=1.0)])
    assert "Seconds per step, by span" in chart and "step 2 (s): train 1" in chart


def test_many_steps_share_bars_that_show_their_mean():
    chart = spans_chart([line(step, usd=step % 2, train=1.0) for step in range(1, 501)])
    assert len(bars(chart, 1)) == 100 <= MAX_BARS
    assert "steps 1 to 5, mean (USD): train 0.6" in chart
    assert len(chart) < 40_000


def test_a_projection_is_a_band_around_its_middle_and_needs_a_price():
    steps = [
        {"step": step, "usd_so_far": float(step), "usd_at_end_of_stage": end}
        for step, end in ((1, None), (2, [8.0, 6.0, 10.0]), (3, [9.0, 8.0, 10.0]))
    ]
    chart = str(projection_chart(steps))
    (band,) = re.findall(r'class="band c1" points="(.*?)"', chart)
    ys = [float(pair.split(",")[1]) for pair in band.split()]
    plot = HEIGHT - BOTTOM - TOP
    expected = [6.0, 8.0, 10.0, 10.0]  # lower ends forwards, upper ends back
    assert ys == [pytest.approx(HEIGHT - BOTTOM - plot * usd / 10, abs=0.06) for usd in expected]
    assert projection_chart([{"step": 1, "usd_so_far": None}]) == ""
    assert projection_chart([{"step": 1, "usd_so_far": 1.0, "usd_at_end_of_stage": None}]) == ""


def test_groups_are_counted_by_their_correct_completions():
    chart = str(outcomes_chart({1: [(0, 8), (8, 8), (8, 8), (3, 8)], 2: [(3, 8)]}, "one: "))
    assert "one: Groups by correct completions, of 8" in chart
    told = re.findall(r"<title>(.*?)</title>", chart)
    assert told == [
        "step 1: 0 of 8 correct in 1 of 4",
        "step 1: 3 of 8 correct in 1 of 4",
        "step 1: 8 of 8 correct in 2 of 4",
        "step 2: 3 of 8 correct in 1 of 1",
    ]
    shades = re.findall(r'fill-opacity="(.*?)"', chart)
    assert shades == ["0.25", "0.25", "0.50", "1.00"], "the largest share of a step is full"
    assert outcomes_chart({}, "") == ""


def test_a_problem_drawn_twice_in_a_step_is_scaled_to_the_group_size():
    chart = str(outcomes_chart({1: [(4, 16), (1, 8), (1, 8)]}, ""))
    assert "step 1: 2 of 8 correct in 1 of 3" in chart


def test_columns_of_many_steps_are_bounded():
    chart = str(outcomes_chart({step: [(step % 9, 8)] for step in range(1, 501)}, ""))
    columns = set(re.findall(r'class="cell" x="(.*?)"', chart))
    assert len(columns) <= MAX_COLUMNS
    assert len(chart) < 90_000
