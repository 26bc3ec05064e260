"""Charts of parts of a whole, as inline SVG: money or time of a step by span, a sum so far with
where it will end, groups by how many of their completions are correct.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from vibelite.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Frame,
    Point,
    coordinates,
    draw_grid,
    make_axis,
    short_number,
)
from vibelite.report.cost import ordered_spans

# More bars, or cells of a row, than these would be thinner than a few pixels.
MAX_BARS, MAX_COLUMNS = 120, 60

# Step -> (correct, all) completions of each of its groups.
Outcomes = Mapping[int, Sequence[tuple[int, int]]]


def spans_chart(steps: Sequence[Mapping[str, Any]]) -> Markup:
    """USD (without a price: seconds) of every step as a bar, stacked by span; of many steps the
    means of neighbours. `steps`: lines of steps.jsonl. A step's money is divided as its time is.
    """
    is_priced = all(line["usd"] is not None for line in steps)
    amounts = [span_amounts(line, is_priced) for line in steps]
    bars = list(grouped(list(zip([line["step"] for line in steps], amounts, strict=True))))
    spans = ordered_spans({span: 1.0 for _, parts in bars for span in parts})
    highest = max((sum(parts.values()) for _, parts in bars), default=0.0)
    if not highest:
        return Markup("")
    frame = plot_frame((bars[0][0][0], bars[-1][0][-1] + 1), (0.0, highest))
    paths = {span: "" for span, _, _ in spans}
    tooltips = []
    for numbers, parts in bars:
        left, right = (frame.x_axis.position(x) for x in (numbers[0], numbers[-1] + 1))
        height = 0.0
        for span, _, _ in spans:
            if not parts.get(span):
                continue
            low, high = (frame.y_axis.position(y) for y in (height, height + parts[span]))
            height += parts[span]
            paths[span] += f"M{left:g} {low:g}V{high:g}H{right:g}V{low:g}z"
        tooltips.append(bar_tooltip(frame, numbers, parts, is_priced))
    drawn = [
        Markup('<path class="area c{}" d="{}"/>').format(color, paths[span])
        for span, _, color in spans
    ]
    title = "USD per step, by span" if is_priced else "Seconds per step, by span"
    keys = [(span, color, "") for span, _, color in spans]
    return figure(title, [draw_grid(frame), *drawn, *tooltips], legend(keys))


def span_amounts(line: Mapping[str, Any], is_priced: bool) -> dict[str, float]:
    """A step's USD, or its seconds, by span."""
    seconds = line["seconds"]
    total = sum(seconds.values())
    factor = line["usd"] / total if is_priced and total else 1.0
    return {span: value * factor for span, value in seconds.items()}


def grouped(
    bars: list[tuple[int, dict[str, float]]],
) -> Sequence[tuple[list[int], dict[str, float]]]:
    """(the steps' numbers, the mean of their amounts) for runs of neighbours, at most MAX_BARS."""
    size = -(-len(bars) // MAX_BARS) if bars else 1
    groups = []
    for start in range(0, len(bars), size):
        part = bars[start : start + size]
        total: Counter[str] = Counter()
        for _, amounts in part:
            total.update(amounts)
        groups.append(
            ([step for step, _ in part], {span: v / len(part) for span, v in total.items()})
        )
    return groups


def bar_tooltip(
    frame: Frame, numbers: list[int], parts: Mapping[str, float], is_priced: bool
) -> Markup:
    """An invisible rectangle over a bar that tells its parts."""
    unit = "USD" if is_priced else "s"
    steps = f"step {numbers[0]}"
    if len(numbers) > 1:
        steps = f"steps {numbers[0]} to {numbers[-1]}, mean"
    told = ", ".join(f"{span} {short_number(value)}" for span, value in parts.items() if value)
    left, right = (frame.x_axis.position(x) for x in (numbers[0], numbers[-1] + 1))
    return Markup(
        '<rect class="hit" x="{}" y="{}" width="{:.1f}" height="{}"><title>{}</title></rect>'
    ).format(left, TOP, max(right - left, 0.5), HEIGHT - BOTTOM - TOP, f"{steps} ({unit}): {told}")


def projection_chart(steps: Sequence[Mapping[str, Any]]) -> Markup:
    """USD of the run so far and, after each step, where it was projected to be at the end of the
    stage, with its 80% interval as a band. "" without a price or a projection.
    """
    so_far = [(s["step"], s["usd_so_far"]) for s in steps if s.get("usd_so_far") is not None]
    ends = [(s["step"], *s["usd_at_end_of_stage"]) for s in steps if s.get("usd_at_end_of_stage")]
    if not so_far or not ends:
        return Markup("")
    highest = max([y for _, y in so_far] + [high for *_, high in ends])
    frame = plot_frame((so_far[0][0], so_far[-1][0]), (0.0, highest))
    edge = [(x, low) for x, _, low, _ in ends] + [(x, high) for x, _, _, high in reversed(ends)]
    middle: list[Point] = [(x, middle) for x, middle, _, _ in ends]
    drawn = [
        Markup('<polygon class="band c1" points="{}"/>').format(coordinates(edge, frame)),
        Markup('<polyline class="line c1" points="{}"/>').format(coordinates(middle, frame)),
        Markup('<polyline class="line c0" points="{}"/>').format(coordinates(so_far, frame)),
    ]
    keys = [
        ("so far", 0, short_number(so_far[-1][1])),
        ("projected at the end of the stage, 80%", 1, short_number(middle[-1][1])),
    ]
    return figure("USD of the run", [draw_grid(frame), *drawn], legend(keys))


def outcomes_chart(outcomes: Outcomes, label: str) -> Markup:
    """How the groups' numbers of correct completions are distributed, step by step: the stronger a
    cell's colour, the larger the share of the step's groups. `label` begins the title; "" without
    groups.
    """
    if not outcomes:
        return Markup("")
    sizes = Counter(size for groups in outcomes.values() for _, size in groups)
    group_size = sizes.most_common(1)[0][0]
    steps = sorted(outcomes)
    width = -(-len(steps) // MAX_COLUMNS)
    frame = plot_frame((steps[0], steps[-1] + 1), (-0.5, group_size + 0.5), is_loose=False)
    columns = [steps[start : start + width] for start in range(0, len(steps), width)]
    counts = [
        Counter(
            round(group_size * right / size) for step in column for right, size in outcomes[step]
        )
        for column in columns
    ]
    largest = max(count / one.total() for one in counts for count in one.values())
    cells = []
    for column, one in zip(columns, counts, strict=True):
        left, end = (frame.x_axis.position(x) for x in (column[0], column[-1] + 1))
        for number, count in sorted(one.items()):
            low, high = (frame.y_axis.position(number + y) for y in (-0.5, 0.5))
            share = count / one.total()
            told = f"step {column[0]}: {number} of {group_size} correct in {count} of {one.total()}"
            cells.append(
                Markup(
                    '<rect class="cell" x="{}" y="{}" width="{:.1f}" height="{:.1f}"'
                    ' fill-opacity="{:.2f}"><title>{}</title></rect>'
                ).format(left, high, end - left, low - high, share / largest, told)
            )
    title = f"{label}Groups by correct completions, of {group_size}"
    return figure(title, [*cells, draw_grid(frame)], Markup(""))


def plot_frame(
    x_range: tuple[float, float], y_range: tuple[float, float], *, is_loose: bool = True
) -> Frame:
    """The axes of a chart over steps."""
    return Frame(
        make_axis(*x_range, start=LEFT, end=WIDTH - RIGHT, is_loose=False, is_whole=True),
        make_axis(
            *y_range, start=HEIGHT - BOTTOM, end=TOP, is_loose=is_loose, is_whole=not is_loose
        ),
        "step",
    )


def legend(keys: Sequence[tuple[str, int, str]]) -> Markup:
    """(label, colour, value or nothing) of every part."""
    item = Markup('<span class="key"><i class="c{}"></i>{} <span class="last">{}</span></span> ')
    return Markup("").join(item.format(color, label, value) for label, color, value in keys)


def figure(title: str, parts: Sequence[Markup], keys: Markup) -> Markup:
    """The chart's parts under its title."""
    svg = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, title, Markup("").join(parts)
    )
    return Markup('<figure class="chart"><figcaption><b>{}</b>{}</figcaption>{}</figure>').format(
        title, keys, svg
    )
