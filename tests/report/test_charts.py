"""Geometry of the charts against coordinates worked out by hand."""

from xml.etree import ElementTree

import pytest

from vibelite.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Series,
    line_chart,
    running_mean,
    tick_labels,
    x_axis,
    y_axis,
)


def chart_of(*values, **options):
    series = [Series(f"s{i}", range(len(each)), each, i) for i, each in enumerate(values)]
    return ElementTree.fromstring(str(line_chart("t", series, **options)))


def polylines(figure):
    return [
        [tuple(map(float, pair.split(","))) for pair in line.get("points", "").split()]
        for line in figure.iter("polyline")
    ]


def test_points_lie_where_their_values_are_and_carry_them():
    figure = chart_of([0.0, None, 1.0])
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    assert polylines(figure) == [[(LEFT, bottom), (right, TOP)]]
    (line,) = figure.iter("polyline")
    assert (line.get("data-y"), line.get("data-run"), line.get("data-label")) == ("0,,1", "0", "s0")
    assert polylines(chart_of([0.0, 0.5, 1.0]))[0][1] == ((LEFT + right) / 2, (TOP + bottom) / 2)


def test_many_points_get_a_running_mean():
    raw, mean = polylines(chart_of([float(step % 2) for step in range(200)]))
    assert len(raw) == len(mean) == 200
    assert max(y for _, y in raw) - min(y for _, y in raw) > 100
    inner = [y for _, y in mean[20:-20]]
    assert max(inner) - min(inner) < 15


def test_one_point_is_a_dot_and_no_point_is_no_chart():
    (dot,) = chart_of([None, 7.0]).iter("circle")
    assert dot.get("class") == "dot c0"
    assert line_chart("t", [Series("a", [1], [None])]) == ""


def test_titles_and_labels_are_escaped():
    series = [Series("<u>&", [0, 1], [0.0, 1.0]), Series("x", [0], [0.0])]
    chart = line_chart("<script>", series)
    assert "<script>" not in chart and "<u>&" not in chart
    assert "&lt;u&gt;&amp;" in chart
    ElementTree.fromstring(str(chart))


def test_running_mean_averages_the_neighbours():
    points = [(float(x), float(y)) for x, y in enumerate([0, 3, 6, 3, 0])]
    assert [y for _, y in running_mean(points)] == [1.5, 3.0, 4.0, 3.0, 1.5]


def test_values_have_round_ticks_and_zero_where_it_is_near():
    axis = y_axis(0.13, 0.87)
    assert axis.ticks == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0])
    bottom = HEIGHT - BOTTOM
    assert [axis.position(y) for y in (0.0, 0.5, 1.0)] == [bottom, (TOP + bottom) / 2, TOP]
    assert y_axis(0.6, 0.87).ticks[0] == pytest.approx(0.6)
    assert y_axis(-0.2, 0.87).low < -0.1


@pytest.mark.parametrize("value", [3e-4, 0.0, -2.0])
def test_a_constant_has_room_around_it(value):
    axis = y_axis(value, value)
    assert axis.low <= value <= axis.high and axis.low < axis.high


def test_steps_are_marked_at_whole_numbers_within_the_data():
    axis = x_axis(1, 3)
    assert list(axis.ticks) == [1, 2, 3]
    assert (axis.position(1), axis.position(3)) == (LEFT, WIDTH - RIGHT)
    assert list(x_axis(7, 95).ticks) == [25, 50, 75]


def test_tick_labels_differ_even_where_the_values_hardly_do():
    assert tick_labels([0.0, 0.25, 0.5]) == ["0", "0.25", "0.5"]
    labels = tick_labels([0.04731, 0.04732, 0.04733])
    assert labels == ["0.04731", "0.04732", "0.04733"]
    assert "e" not in tick_labels([-0.1, -0.1 + 0.1, 0.1])[1]
