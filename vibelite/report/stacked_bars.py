"""Money or time of every step as a bar, stacked by span, as inline SVG."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from vibelite.report.charts import (
    BOTTOM,
    HEIGHT,
    TOP,
    Frame,
    draw_grid,
    figure,
    horizontal_axis,
    legend_of,
    vertical_axis,
)
from vibelite.report.cost import ordered_spans
from vibelite.units import short_number

# More bars than these would be thinner than a few pixels.
MAX_BARS = 120


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
    frame = Frame(
        horizontal_axis(bars[0][0][0], bars[-1][0][-1] + 1, is_whole=True),
        vertical_axis(0.0, highest),
        "step",
    )
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
    return figure(title, [draw_grid(frame), *drawn, *tooltips], legend_of(keys))


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
