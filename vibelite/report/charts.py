"""Charts as inline SVG, without a library; colours by the page's style sheet. Its script finds the
values under the pointer, and draws lines over another axis, from what a chart carries with it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from vibelite.report.cost import ordered_spans
from vibelite.report.texts import evenly_spaced
from vibelite.units import short_number

WIDTH, HEIGHT = 360, 168
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 22
NUM_TICKS = 4
# More than the pixels of a chart show.
MAX_POINTS = 1000
# Values of a line that the reader may ask for.
MAX_VALUES = 120
# More bars than these would be thinner than a few pixels.
MAX_BARS = 120
# Fewer points than this are shown as they are, without a running mean.
MIN_POINTS_TO_SMOOTH = 30

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart; `color` is an index into the page's palette."""

    label: str
    points: Sequence[Point]
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

    def labels(self) -> Iterator[tuple[float, str]]:
        """(position, value) of every tick."""
        return zip(map(self.position, self.ticks), tick_labels(self.ticks), strict=True)


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
    hint: str = "",
) -> Markup:
    """A figure with title, legend, axes and one line per series; "" when no series has a point.
    `hint` says what is good.

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
    frame = make_frame((min(xs), max(xs)), (y_low, y_high), x_label)
    parts = [draw_grid(frame)]
    parts += [draw_line(one, frame, is_noisy=is_noisy) for one in series]
    kind = "chart several" if len(series) > 1 else "chart"
    shown = figure(title, parts, draw_legend(series), kind=kind, hint=hint)
    x, y = frame.x_axis, frame.y_axis
    reach = Markup('<svg tabindex="0" data-x="{} {}" data-y="{} {}" data-unit="{}" ').format(
        x.low, x.high, y.low, y.high, x_label
    )
    return Markup(shown.replace("<svg ", reach, 1))


def spans_chart(steps: Sequence[Mapping[str, Any]]) -> Markup:
    """USD (without a price: seconds) of every step as a bar, stacked by span; of many steps the
    means of neighbours. `steps`: lines of steps.jsonl. A step's money is divided as its time is.
    """
    is_priced = all(line["usd"] is not None for line in steps)
    amounts = [(line["step"], span_amounts(line, is_priced)) for line in steps]
    bars = mean_of_neighbours(amounts)
    spans = ordered_spans({span: 1.0 for _, parts in bars for span in parts})
    highest = max((sum(parts.values()) for _, parts in bars), default=0.0)
    if not highest:
        return Markup("")
    frame = make_frame((bars[0][0][0], bars[-1][0][-1] + 1), (0.0, highest))
    paths = {span: "" for span, _, _ in spans}
    unit = "USD" if is_priced else "s"
    tooltips = []
    for numbers, parts in bars:
        left, right = (frame.x_axis.position(x) for x in (numbers[0], numbers[-1] + 1))
        height = 0.0
        for span in paths:
            if not parts.get(span):
                continue
            low, high = (frame.y_axis.position(y) for y in (height, height + parts[span]))
            height += parts[span]
            paths[span] += f"M{left:g} {low:g}V{high:g}H{right:g}V{low:g}z"
        tooltips.append(bar_tooltip((left, right), numbers, parts, unit))
    area = Markup('<path class="area c{}" d="{}"/>')
    drawn = [area.format(color, paths[span]) for span, _, color in spans]
    title = f"{'USD' if is_priced else 'Seconds'} per step, by span"
    legend = legend_of([(span, color, "") for span, _, color in spans])
    return figure(title, [draw_grid(frame), *drawn, *tooltips], legend)


def span_amounts(line: Mapping[str, Any], is_priced: bool) -> dict[str, float]:
    """A step's USD, or its seconds, by span."""
    seconds = line["seconds"]
    total = sum(seconds.values())
    factor = line["usd"] / total if is_priced and total else 1.0
    return {span: value * factor for span, value in seconds.items()}


def mean_of_neighbours(
    amounts: Sequence[tuple[int, dict[str, float]]],
) -> list[tuple[list[int], dict[str, float]]]:
    """(the steps' numbers, the mean of their amounts) for runs of neighbours, at most MAX_BARS."""
    size = math.ceil(len(amounts) / MAX_BARS)
    bars = []
    for start in range(0, len(amounts), size or 1):
        part = amounts[start : start + size]
        total: Counter[str] = Counter()
        for _, each in part:
            total.update(each)
        bars.append(([step for step, _ in part], {s: v / len(part) for s, v in total.items()}))
    return bars


def bar_tooltip(
    ends: tuple[float, float], numbers: Sequence[int], parts: Mapping[str, float], unit: str
) -> Markup:
    """An invisible rectangle over a bar, from left to right, that tells its parts."""
    steps = f"step {numbers[0]}"
    if len(numbers) > 1:
        steps = f"steps {numbers[0]} to {numbers[-1]}, mean"
    told = ", ".join(f"{span} {short_number(value)}" for span, value in parts.items() if value)
    width = max(ends[1] - ends[0], 0.5)
    return Markup(
        '<rect class="hit" x="{}" y="{}" width="{:.1f}" height="{}"><title>{}</title></rect>'
    ).format(ends[0], TOP, width, HEIGHT - BOTTOM - TOP, f"{steps} ({unit}): {told}")


def figure(
    title: str, parts: Sequence[Markup], legend: Markup, *, kind: str = "chart", hint: str = ""
) -> Markup:
    """The parts of a chart under its title and legend, and over its hint."""
    svg = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, title, Markup("").join(parts)
    )
    return Markup('<figure class="{}"><figcaption><b>{}</b>{}</figcaption>{}{}</figure>').format(
        kind,
        title,
        legend,
        svg,
        Markup('<p class="hint">Good: {}</p>').format(hint) if hint else "",
    )


def make_frame(xs: tuple[float, float], ys: tuple[float, float], x_label: str = "step") -> Frame:
    """Axes as wide as the range `xs`, and from the tick below the range `ys` to that above it."""
    ends = {"start": LEFT, "end": WIDTH - RIGHT}
    x_axis = make_axis(*xs, **ends, is_loose=False, is_whole=x_label == "step")
    return Frame(x_axis, make_axis(*ys, start=HEIGHT - BOTTOM, end=TOP), x_label)


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
    line = Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>')
    text = Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>')
    below = Markup('<text class="x" x="{}" y="{}" text-anchor="{}">{}</text>')
    parts = [below.format(0, HEIGHT - 7, "start", frame.x_label)]
    for y, label in frame.y_axis.labels():
        parts.append(line.format(LEFT, WIDTH - RIGHT, y, y))
        parts.append(text.format(LEFT - 6, y + 3.5, "end", label))
    parts += [below.format(x, HEIGHT - 7, "middle", label) for x, label in frame.x_axis.labels()]
    return Markup("").join(parts)


def draw_line(series: Series, frame: Frame, *, is_noisy: bool) -> Markup:
    """The points joined, and their running mean when they are noisy; a single point as a dot."""
    color = Markup("c{}").format(series.color % 8)
    told = evenly_spaced(series.points, MAX_VALUES)
    values = Markup('data-label="{}" data-series="{}" data-values="{}"').format(
        series.label, series.color, " ".join(f"{x:.6g}:{short_number(y)}" for x, y in told)
    )
    if len(series.points) == 1:
        return Markup('<circle class="dot {}" {} cx="{}" cy="{}" r="3"/>').format(
            color, values, *frame.place(series.points[0])
        )
    lines = [("", series.points)]
    if is_noisy and len(series.points) >= MIN_POINTS_TO_SMOOTH:
        lines = [("raw ", series.points), ("mean ", running_mean(series.points))]
    return Markup("").join(
        Markup('<polyline class="line {}{}" {} points="{}"/>').format(
            kind,
            color,
            Markup('data-series="{}"').format(series.color) if kind == "mean " else values,
            " ".join("{:g},{:g}".format(*frame.place(point)) for point in points),
        )
        for kind, points in lines
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
    if len(series) == 1:
        return Markup(' <span class="last">{}</span>').format(short_number(series[0].points[-1][1]))
    keys = [(one.label, one.color % 8, short_number(one.points[-1][1])) for one in series]
    return legend_of(keys)


def legend_of(keys: Sequence[tuple[str, int, str]]) -> Markup:
    """(label, colour, value or nothing) of every part of a chart."""
    item = Markup('<span class="key"><i class="c{}"></i>{} <span class="last">{}</span></span> ')
    return Markup("").join(item.format(color, label, value) for label, color, value in keys)
