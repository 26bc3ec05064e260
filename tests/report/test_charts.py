"""Geometry of the charts against coordinates worked out by hand."""

import re
from xml.etree import ElementTree

import pytest

from vibelite.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MAX_BARS,
    MAX_POINTS,
    RIGHT,
    TOP,
    WIDTH,
    Series,
    line_chart,
    make_axis,
    round_spacing,
    running_mean,
    span_amounts,
    spans_chart,
    tick_labels,
)


def parse(markup):
    return ElementTree.fromstring(str(markup))


def polylines(figure):
    return [
        [tuple(map(float, pair.split(","))) for pair in line.get("points", "").split()]
        for line in figure.iter("polyline")
    ]


def test_points_lie_where_their_values_are():
    figure = parse(line_chart("t", [Series("a", [(0, 0.0), (5, 0.5), (10, 1.0)])]))
    left, right = LEFT, WIDTH - RIGHT
    top, bottom = TOP, HEIGHT - BOTTOM
    middle = ((left + right) / 2, (top + bottom) / 2)
    assert polylines(figure) == [[(left, bottom), middle, (right, top)]]


def test_every_point_is_in_the_line_and_many_noisy_ones_get_a_running_mean():
    points = [(float(step), float(step % 2)) for step in range(200)]
    raw, mean = polylines(parse(line_chart("t", [Series("a", points)])))
    assert len(raw) == len(mean) == 200
    assert max(y for _, y in raw) - min(y for _, y in raw) > 100
    inner = [y for _, y in mean[20:-20]]
    assert max(inner) - min(inner) < 15
    (quiet,) = polylines(parse(line_chart("t", [Series("a", points)], is_noisy=False)))
    assert quiet == raw


def test_very_long_lines_are_thinned_and_keep_both_ends():
    points = [(float(step), 0.0) for step in range(5001)]
    (line,) = polylines(parse(line_chart("t", [Series("a", points)], is_noisy=False)))
    assert len(line) == MAX_POINTS
    assert (line[0][0], line[-1][0]) == (LEFT, WIDTH - RIGHT)


def test_one_point_is_a_dot_and_no_point_is_no_chart():
    figure = parse(line_chart("t", [Series("a", [(3, 7.0)])]))
    assert [circle.get("class") for circle in figure.iter("circle")] == ["dot c0"]
    assert line_chart("t", [Series("a", [])]) == ""


def test_a_line_carries_its_values_for_the_crosshair():
    figure = parse(line_chart("t", [Series("a", [(1, 0.25), (2, 1234.5)])]))
    (line,) = figure.iter("polyline")
    assert (line.get("data-label"), line.get("data-values")) == ("a", "1:0.25 2:1234")
    (svg,) = figure.iter("svg")
    assert (svg.get("data-x"), svg.get("data-unit"), svg.get("tabindex")) == ("1 2", "step", "0")


def test_titles_and_labels_are_escaped():
    chart = line_chart("<script>", [Series("<u>&", [(0, 0.0), (1, 1.0)]), Series("x", [(0, 0.0)])])
    assert "<script>" not in chart and "<u>&" not in chart
    assert "&lt;u&gt;&amp;" in chart
    parse(chart)


def test_running_mean_averages_the_neighbours():
    points = [(float(x), float(y)) for x, y in enumerate([0, 3, 6, 3, 0])]
    assert [y for _, y in running_mean(points)] == [1.5, 3.0, 4.0, 3.0, 1.5]


def test_axis_has_round_ticks_and_holds_its_values():
    axis = make_axis(0.13, 0.87, start=100, end=0)
    assert axis.ticks == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert (axis.position(0.0), axis.position(1.0), axis.position(0.5)) == (100, 0, 50)


def test_steps_are_marked_at_whole_numbers_within_the_data():
    axis = make_axis(1, 3, start=0, end=100, is_loose=False, is_whole=True)
    assert axis.ticks == [1, 2, 3]
    assert (axis.position(1), axis.position(3)) == (0, 100)


def test_axis_of_a_constant_has_room_around_it():
    axis = make_axis(3e-4, 3e-4, start=100, end=0)
    assert axis.low < 3e-4 < axis.high


@pytest.mark.parametrize(
    ("spacing", "rounded"), [(1, 1), (1.1, 2), (2.1, 2.5), (0.026, 0.05), (6e-7, 1e-6), (51, 100)]
)
def test_spacing_is_rounded_up(spacing, rounded):
    assert round_spacing(spacing) == pytest.approx(rounded)


def test_tick_labels_differ_even_where_the_values_hardly_do():
    assert tick_labels([0.0, 0.25, 0.5]) == ["0", "0.25", "0.5"]
    labels = tick_labels([0.04731, 0.04732, 0.04733])
    assert labels == ["0.04731", "0.04732", "0.04733"]
    assert not re.search("e", tick_labels([-0.1, -0.1 + 0.1, 0.1])[1])


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
