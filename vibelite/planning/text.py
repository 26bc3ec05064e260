"""A plan for people to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

from vibelite.planning.plan import USABLE, DiskNeed, Plan, smallest_gpu
from vibelite.units import duration, gib_text, usd_text

# Parts of less than 64 MiB are left out of the lists.
SHOWN_BYTES = 2**26


def plan_text(
    plan: Plan,
    changes: Sequence[str] | None,
    longest: Mapping[str, int],
    free: Mapping[str, tuple[str, float]],
) -> str:
    """The plan; `changes` of settings with which it would fit, None = none of ours do; the
    `longest` response by stage with which it fits; `free`: place of files -> the directory there
    and its free bytes.
    """
    device = plan.machine.device
    lines = [
        f"{plan.recipe.name}: {plan.shape.num_parameters / 1e9:.3f} B parameters on "
        f"{plan.machine.num_gpus} x {device.name} ({gib_text(device.memory_bytes)} GiB, "
        f"{USABLE:.0%} usable)",
        "",
        *_memory_lines(plan),
        "",
        *_cost_lines(plan),
        "",
        *(_disk_line(need, *free[need.place]) for need in plan.disk),
        *_assumption_lines(plan),
        "",
        *_verdict_lines(plan, changes, longest),
    ]
    return "\n".join(lines)


def _memory_lines(plan: Plan) -> list[str]:
    width = _name_width(plan)
    lines = [f"{'stage':<{width}}{'phase':<10}{'peak GiB':>9}{'host GiB':>9}  of which, in GiB"]
    for phase in plan.phases:
        parts = sorted(phase.parts.items(), key=lambda part: -part[1])
        shown = ", ".join(f"{name} {gib_text(size)}" for name, size in parts if size >= SHOWN_BYTES)
        host = gib_text(phase.host) if phase.host else ""
        row = f"{phase.stage:<{width}}{phase.phase:<10}{gib_text(phase.total):>9}{host:>9}"
        lines.append(f"{row}  {shown} ({phase.moment})")
    return lines


def _name_width(plan: Plan) -> int:
    """Of the column of stages' names."""
    return max(12, *(len(stage.work.stage) + 2 for stage in plan.stages))


def _cost_lines(plan: Plan) -> list[str]:
    widths = f"{{:<{_name_width(plan)}}}{{:>7}}" + 6 * "{:>13}" + 2 * "{:>10}"
    titles = ("stage", "steps", "generate", "train", "send", "around", "together", "a step")
    titles = (*titles, "$ a step", "$")
    lines = [widths.format(*titles)]
    for stage in plan.stages:
        seconds, per_step = stage.seconds, stage.seconds_per_step
        if not seconds.total:
            continue
        cells = [
            stage.work.stage,
            stage.work.num_steps or "",
            _time(seconds.generate),
            _time(seconds.train + seconds.optimizer),
            _time(seconds.communicate),
            _time(seconds.around),
            _time(seconds.total),
            _time(per_step),
            "" if per_step is None else _usd(plan.usd(per_step)),
            _usd(plan.usd(seconds.total)),
        ]
        lines.append(widths.format(*cells))
    total = ["all", "", "", "", "", "", _time(plan.seconds), "", "", _usd(plan.usd(plan.seconds))]
    return [*lines, widths.format(*total)]


def _disk_line(need: DiskNeed, directory: str, free: float) -> str:
    states = f" and training states {gib_text(need.states)}" if need.states else ""
    line = f"disk, {need.place}: models {gib_text(need.models)}{states} GiB"
    short = ": too little, if it is to run here" if free < need.total else ""
    return f"{line}; {gib_text(free)} GiB are free under {directory}{short}"


def _assumption_lines(plan: Plan) -> list[str]:
    assumed = ", ".join(
        f"{field.name} {getattr(plan.assumptions, field.name):g}"
        for field in fields(plan.assumptions)
    )
    price = plan.machine.usd_per_hour
    paid = "none, so no $" if price is None else f"{price:g} $/h ({plan.machine.price_source})"
    lines = [f"assumed: {assumed} (--assume NAME=VALUE)", f"price: {paid}"]
    if plan.machine.device.is_cpu:
        lines.append(
            "a CPU is planned with one thread of another machine (--assume flops=VALUE and so on)"
        )
    return lines


def _verdict_lines(
    plan: Plan, changes: Sequence[str] | None, longest: Mapping[str, int]
) -> list[str]:
    lines = [
        f"longest response that fits in {stage}: {tokens} tokens"
        for stage, tokens in longest.items()
    ]
    smallest = smallest_gpu(plan)
    name = smallest.name if smallest else "none of them"
    if plan.fits:
        return [*lines, f"it fits; the smallest listed GPU on which it does: {name}"]
    peak = plan.peak
    assert peak is not None, "a plan without phases fits"
    lines.append(f"it does not fit: {peak.stage}/{peak.phase} needs {gib_text(peak.total)} GiB")
    if changes is None:
        lines.append("no setting makes it fit: a smaller window, an adapter or a larger GPU would")
    else:
        lines.append("it would fit with " + " ".join(f"--set {item}" for item in changes))
    return [*lines, f"as it is, the smallest listed GPU on which it fits: {name}"]


def _time(seconds: float | None) -> str:
    return duration(seconds) if seconds else ""


def _usd(amount: float | None) -> str:
    return "" if amount is None else usd_text(amount)
