"""Line charts as inline SVG, whole without script; colours by the page's style sheet. The script
reads values off them and moves them to another x axis, by the `data-` attributes of their lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from vibelite.units import short_number

WIDTH, HEIGHT = 360, 168
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 22
NUM_TICKS = 4
# Fewer points than this are shown as they are, without a running mean.
MIN_POINTS_TO_SMOOTH = 30

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart: its value at each of `xs`, None where there is none; `color` is an index
    into the page's palette, `run` one into the stage's runs.
    """

    label: str
    xs: Sequence[float]
    values: Sequence[float | None]
    color: int = 0
    run: int = 0

    @property
    def points(self) -> list[Point]:
        return [(x, y) for x, y in zip(self.xs, self.values, strict=True) if y is not None]


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear map from values to SVG units, and where its ticks are."""

    low: float
    high: float
    start: float
    end: float
    ticks: Sequence[float]

    def position(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def line_chart(
    title: str, series: Sequence[Series], *, hint: str = "", x_label: str = "step"
) -> Markup:
    """A figure with title, legend, axes and one line per series; "" when no series has a point.
    `hint` says what is good. Of 30 points or more the line is thin, with its running mean over it.
    """
    series = [one for one in series if one.points]
    if not series:
        return Markup("")
    xs, ys = zip(*(point for one in series for point in one.points), strict=True)
    axes = x_axis(min(xs), max(xs)), y_axis(min(ys), max(ys))
    drawn = Markup("").join([draw_grid(*axes, x_label), *(draw_line(one, *axes) for one in series)])
    svg = Markup('<svg viewBox="0 0 {} {}" role="img" tabindex="0" aria-label="{}">{}</svg>')
    kind = "chart several" if len(series) > 1 else "chart"
    good = Markup('<p class="hint">Good: {}</p>').format(hint) if hint else ""
    return Markup('<figure class="{}"><figcaption><b>{}</b>{}</figcaption>{}{}</figure>').format(
        kind, title, draw_legend(series), svg.format(WIDTH, HEIGHT, title, drawn), good
    )


def x_axis(low: float, high: float) -> Axis:
    """As wide as the values are, with round ticks; of steps at whole numbers."""
    if low == high:
        low, high = low - 1, high + 1
    spacing = round_spacing((high - low) / NUM_TICKS)
    if isinstance(low, int):
        spacing = math.ceil(spacing)
    first, last = math.ceil(low / spacing - 1e-9), math.floor(high / spacing + 1e-9)
    ticks = [index * spacing for index in range(first, last + 1)]
    return Axis(low, high, LEFT, WIDTH - RIGHT, ticks)


def y_axis(low: float, high: float) -> Axis:
    """From the tick below to that above; from 0 where this takes less than half of the height."""
    if low == high:
        low, high = sorted((0.0, 2 * high or 1.0))
    elif 0 < low < high / 2:
        low = 0.0
    spacing = round_spacing((high - low) / NUM_TICKS)
    first, last = math.floor(low / spacing + 1e-9), math.ceil(high / spacing - 1e-9)
    ticks = [index * spacing for index in range(first, last + 1)]
    return Axis(ticks[0], ticks[-1], HEIGHT - BOTTOM, TOP, ticks)


def round_spacing(spacing: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is at least `spacing`.

    >>> round_spacing(0.13)
    0.2
    """
    power = 10.0 ** math.floor(math.log10(spacing))
    factors = (f for f in (1, 2, 2.5, 5) if f * power >= spacing * (1 - 1e-9))
    return next(factors, 10) * power


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """The ticks' values with as many digits as tell them apart."""
    spacing = min((b - a for a, b in pairwise(ticks)), default=1.0)
    # What floating point leaves of a tick at 0.
    exact = [0.0 if abs(tick) < spacing / 1e6 else tick for tick in ticks]
    for digits in range(3, 12):
        labels = [short_number(tick, digits) for tick in exact]
        if len(set(labels)) == len(ticks):
            return labels
    return [repr(tick) for tick in exact]


def draw_grid(x_axis: Axis, y_axis: Axis, x_label: str) -> Markup:
    """Horizontal lines with their values, and values along the bottom."""
    line = Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>')
    text = Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>')
    parts = [text.format("unit", 0, HEIGHT - 7, "start", x_label)]
    for y, label in zip(map(y_axis.position, y_axis.ticks), tick_labels(y_axis.ticks), strict=True):
        parts.append(line.format(LEFT, WIDTH - RIGHT, y, y))
        parts.append(text.format("y", LEFT - 6, y + 3.5, "end", label))
    for tick, label in zip(x_axis.ticks, tick_labels(x_axis.ticks), strict=True):
        parts.append(text.format("x", x_axis.position(tick), HEIGHT - 7, "middle", label))
    return Markup("").join(parts)


def draw_line(series: Series, x_axis: Axis, y_axis: Axis) -> Markup:
    """The points joined, and their running mean where they are many; a single point as a dot."""
    color, points = series.color % 8, series.points
    told = Markup('data-run="{}" data-label="{}" data-y="{}"').format(
        series.run,
        series.label,
        ",".join("" if value is None else f"{value:.4g}" for value in series.values),
    )
    if len(points) == 1:
        return Markup('<circle class="dot c{}" cx="{}" cy="{}" r="3" {}/>').format(
            color, x_axis.position(points[0][0]), y_axis.position(points[0][1]), told
        )
    lines = [("", points)]
    if len(points) >= MIN_POINTS_TO_SMOOTH:
        lines = [("raw ", points), ("mean ", running_mean(points))]
    return Markup("").join(
        Markup('<polyline class="line {}c{}" points="{}" {}/>').format(
            kind,
            color,
            " ".join(f"{x_axis.position(x):g},{y_axis.position(y):g}" for x, y in drawn),
            told,
        )
        for kind, drawn in lines
    )


def running_mean(points: Sequence[Point]) -> list[Point]:
    """Each y replaced by the mean of a fifteenth of all points around it, fewer at the ends."""
    reach = max(1, len(points) // 30)
    values = [y for _, y in points]
    smoothed = []
    for index, (x, _) in enumerate(points):
        window = values[max(0, index - reach) : index + reach + 1]
        smoothed.append((x, math.fsum(window) / len(window)))
    return smoothed


def draw_legend(series: Sequence[Series]) -> Markup:
    """Colour, label and last value of every series; the last value alone when there is one."""
    last = Markup('<span class="last">{}</span>')
    values = [last.format(short_number(one.points[-1][1])) for one in series]
    if len(series) == 1:
        return Markup(" ") + values[0]
    item = Markup('<span class="key"><i class="c{}"></i>{} {}</span> ')
    return Markup("").join(
        item.format(one.color % 8, one.label, value)
        for one, value in zip(series, values, strict=True)
    )
