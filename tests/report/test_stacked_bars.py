"""The bars of steps, against numbers worked out by hand."""

import re

import pytest

from vibelite.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH
from vibelite.report.stacked_bars import MAX_BARS, span_amounts, spans_chart


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
