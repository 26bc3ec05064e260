"""Geometry of the charts against coordinates worked out by hand."""

import re
from xml.etree import ElementTree

import pytest

from vibelite.report import charts
from vibelite.report.charts import (
    Series,
    line_chart,
    make_axis,
    round_spacing,
    running_mean,
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
    left, right = charts.LEFT, charts.WIDTH - charts.RIGHT
    top, bottom = charts.TOP, charts.HEIGHT - charts.BOTTOM
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
    assert len(line) == charts.MAX_POINTS
    assert (line[0][0], line[-1][0]) == (charts.LEFT, charts.WIDTH - charts.RIGHT)


def test_one_point_is_a_dot_and_no_point_is_no_chart():
    figure = parse(line_chart("t", [Series("a", [(3, 7.0)])]))
    assert [circle.get("class") for circle in figure.iter("circle")] == ["dot c0", "hit"]
    assert line_chart("t", [Series("a", [])]) == ""


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
