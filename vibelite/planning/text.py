"""A plan for people to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from vibelite.planning.plan import USABLE, DiskNeed, Plan, smallest_gpu
from vibelite.tables import format_table
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
        _memory_table(plan),
        _cost_table(plan),
        "\n".join(
            [*(_disk_line(need, *free[need.place]) for need in plan.disk), *_assumption_lines(plan)]
        ),
        "\n".join(_verdict_lines(plan, changes, longest)),
    ]
    return "\n\n".join(lines)


def _memory_table(plan: Plan) -> str:
    header = ["stage", "phase", "moment", "peak GiB", "host GiB", "of which, in GiB"]
    rows = []
    for phase in plan.phases:
        parts = sorted(phase.parts.items(), key=lambda part: -part[1])
        shown = ", ".join(f"{name} {gib_text(size)}" for name, size in parts if size >= SHOWN_BYTES)
        host = gib_text(phase.host) if phase.host else ""
        rows.append([phase.stage, phase.phase, phase.moment, gib_text(phase.total), host, shown])
    return format_table(header, rows)


def _cost_table(plan: Plan) -> str:
    header = ["stage", "steps", "generate", "train", "send", "around", "together"]
    rows = []
    for stage in plan.stages:
        seconds, per_step = stage.seconds, stage.seconds_per_step
        train = seconds.train + seconds.optimizer
        times = (seconds.generate, train, seconds.communicate, seconds.around, seconds.total)
        money = [_usd(plan.usd(value)) if value else "" for value in (per_step, seconds.total)]
        if seconds.total:
            steps = str(stage.work.num_steps or "")
            rows.append([stage.work.stage, steps, *map(_time, times), _time(per_step), *money])
    total = [_time(plan.seconds), "", "", _usd(plan.usd(plan.seconds))]
    return format_table([*header, "a step", "$ a step", "$"], [*rows, ["all", *[""] * 5, *total]])


def _disk_line(need: DiskNeed, directory: str, free: float) -> str:
    states = f" and training states {gib_text(need.states)}" if need.states else ""
    line = f"disk, {need.place}: models {gib_text(need.models)}{states} GiB"
    short = ": too little, if it is to run here" if free < need.total else ""
    return f"{line}; {gib_text(free)} GiB are free under {directory}{short}"


def _assumption_lines(plan: Plan) -> list[str]:
    assumed = ", ".join(f"{name} {value:g}" for name, value in asdict(plan.assumptions).items())
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
