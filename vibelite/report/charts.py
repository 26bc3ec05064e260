"""Line charts as inline SVG: no library, no script, colours by the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from vibelite.report.run_data import evenly_spaced
from vibelite.units import short_number

WIDTH, HEIGHT = 360, 168
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 22
NUM_TICKS = 4
# More than the pixels of a chart show.
MAX_POINTS = 1000
MAX_TOOLTIPS = 120
# Fewer points than this are shown as they are, without a running mean.
MIN_POINTS_TO_SMOOTH = 30

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart; `color` is an index into the page's palette."""

    label: str
    points: list[Point]
    color: int = 0


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear map from values to SVG units, and where its ticks are."""

    low: float
    high: float
    start: float
    end: float
    ticks: list[float]

    def position(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


@dataclass(frozen=True, slots=True)
class Frame:
    """The two axes of a chart and what the horizontal one counts."""

    x_axis: Axis
    y_axis: Axis
    x_label: str

    def place(self, point: Point) -> tuple[float, float]:
        """Where a point lies, in SVG units."""
        return self.x_axis.position(point[0]), self.y_axis.position(point[1])


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_label: str = "step",
    y_range: tuple[float, float] | None = None,
    is_noisy: bool = True,
) -> Markup:
    """A figure with title, legend, axes and one line per series; "" when no series has a point.

    Of a noisy quantity with 30 points or more the line is thin, with its running mean over it.
    `y_range` fixes the ends of the y axis; otherwise they follow the values.
    """
    series = [
        Series(one.label, evenly_spaced(one.points, MAX_POINTS), one.color)
        for one in series
        if one.points
    ]
    if not series:
        return Markup("")
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series for _, y in one.points]
    y_low, y_high = y_range or (min(ys), max(ys))
    frame = Frame(
        horizontal_axis(min(xs), max(xs), is_whole=x_label == "step"),
        vertical_axis(y_low, y_high),
        x_label,
    )
    parts = [draw_grid(frame)]
    parts += [draw_line(one, frame, is_noisy=is_noisy) for one in series]
    parts += [draw_tooltips(one, frame) for one in series]
    kind = "chart several" if len(series) > 1 else "chart"
    return figure(title, parts, draw_legend(series), kind=kind)


def figure(title: str, parts: Sequence[Markup], legend: Markup, *, kind: str = "chart") -> Markup:
    """The parts of a chart under its title and legend."""
    svg = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, title, Markup("").join(parts)
    )
    return Markup('<figure class="{}"><figcaption><b>{}</b>{}</figcaption>{}</figure>').format(
        kind, title, legend, svg
    )


def horizontal_axis(low: float, high: float, *, is_whole: bool) -> Axis:
    """The axis of steps, or of another quantity, as wide as the values."""
    return make_axis(low, high, start=LEFT, end=WIDTH - RIGHT, is_loose=False, is_whole=is_whole)


def vertical_axis(low: float, high: float) -> Axis:
    """The axis of values, up to the ticks outside of them."""
    return make_axis(low, high, start=HEIGHT - BOTTOM, end=TOP)


def make_axis(
    low: float,
    high: float,
    *,
    start: float,
    end: float,
    is_loose: bool = True,
    is_whole: bool = False,
) -> Axis:
    """An axis over low..high with about NUM_TICKS round ticks, at whole numbers if `is_whole`;
    `is_loose` widens it to the ticks outside.
    """
    if high == low == 0:  # most of what is always 0 cannot be below it
        high = 1.0
    elif high == low:
        margin = abs(low) / 2
        low, high = low - margin, high + margin
    spacing = round_spacing((high - low) / NUM_TICKS)
    if is_whole:
        spacing = float(math.ceil(spacing))
    first, last = math.floor(low / spacing + 1e-9), math.ceil(high / spacing - 1e-9)
    ticks = [index * spacing for index in range(first, last + 1)]
    if is_loose:
        return Axis(ticks[0], ticks[-1], start, end, ticks)
    inside = [tick for tick in ticks if low - 1e-9 * spacing <= tick <= high + 1e-9 * spacing]
    return Axis(low, high, start, end, inside)


def round_spacing(spacing: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is at least `spacing`.

    >>> round_spacing(0.13)
    0.2
    """
    power = 10.0 ** math.floor(math.log10(spacing))
    for factor in (1, 2, 2.5, 5):
        if factor * power >= spacing * (1 - 1e-9):
            return factor * power
    return 10 * power


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


def draw_grid(frame: Frame) -> Markup:
    """Horizontal lines with their values, and values along the bottom."""
    parts = []
    for tick, label in zip(frame.y_axis.ticks, tick_labels(frame.y_axis.ticks), strict=True):
        y = frame.y_axis.position(tick)
        parts.append(
            Markup(
                '<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>'
                '<text x="{}" y="{}" text-anchor="end">{}</text>'
            ).format(LEFT, WIDTH - RIGHT, y, y, LEFT - 6, y + 3.5, label)
        )
    for tick, label in zip(frame.x_axis.ticks, tick_labels(frame.x_axis.ticks), strict=True):
        parts.append(
            Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(
                frame.x_axis.position(tick), HEIGHT - 7, label
            )
        )
    parts.append(Markup('<text x="0" y="{}">{}</text>').format(HEIGHT - 7, frame.x_label))
    return Markup("").join(parts)


def draw_line(series: Series, frame: Frame, *, is_noisy: bool) -> Markup:
    """The points joined, and their running mean when they are noisy; a single point as a dot."""
    color = Markup("c{}").format(series.color % 8)
    if len(series.points) == 1:
        return Markup('<circle class="dot {}" cx="{}" cy="{}" r="3"/>').format(
            color, *frame.place(series.points[0])
        )
    lines = Markup('<polyline class="line {}" points="{}"/>')
    if not is_noisy or len(series.points) < MIN_POINTS_TO_SMOOTH:
        return lines.format(color, coordinates(series.points, frame))
    raw = Markup('<polyline class="line raw {}" points="{}"/>').format(
        color, coordinates(series.points, frame)
    )
    mean = Markup('<polyline class="line mean {}" points="{}"/>').format(
        color, coordinates(running_mean(series.points), frame)
    )
    return raw + mean


def coordinates(points: Sequence[Point], frame: Frame) -> str:
    """The value of a polyline's `points`."""
    return " ".join("{:g},{:g}".format(*frame.place(point)) for point in points)


def running_mean(points: Sequence[Point]) -> list[Point]:
    """Each y replaced by the mean of a fifteenth of all points around it, fewer at the ends."""
    reach = max(1, len(points) // 30)
    values = [y for _, y in points]
    smoothed = []
    for index, (x, _) in enumerate(points):
        window = values[max(0, index - reach) : index + reach + 1]
        smoothed.append((x, math.fsum(window) / len(window)))
    return smoothed


def draw_tooltips(series: Series, frame: Frame) -> Markup:
    """Invisible circles that show a point's value when the pointer rests on them."""
    circle = Markup('<circle class="hit" cx="{}" cy="{}" r="5"><title>{}</title></circle>')
    return Markup("").join(
        circle.format(
            *frame.place((x, y)),
            f"{series.label}: {short_number(y)} at {frame.x_label} {short_number(x)}",
        )
        for x, y in evenly_spaced(series.points, MAX_TOOLTIPS)
    )


def draw_legend(series: Sequence[Series]) -> Markup:
    """Colour, label and last value of every series; the last value alone when there is one."""
    if len(series) == 1:
        return Markup(' <span class="last">{}</span>').format(short_number(series[0].points[-1][1]))
    keys = [(one.label, one.color % 8, short_number(one.points[-1][1])) for one in series]
    return legend_of(keys)


def legend_of(keys: Sequence[tuple[str, int, str]]) -> Markup:
    """(label, colour, value or nothing) of every part of a chart."""
    item = Markup('<span class="key"><i class="c{}"></i>{} <span class="last">{}</span></span> ')
    return Markup("").join(item.format(color, label, value) for label, color, value in keys)
