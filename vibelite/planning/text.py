"""A plan for people to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from vibelite.planning.cpu import Cpu
from vibelite.planning.disk import DiskNeed
from vibelite.planning.memory_model import GIB, PhaseMemory
from vibelite.planning.plan import HOUR, USABLE, Plan, smallest_gpu

# Parts of less than 64 MiB are left out of the lists.
SHOWN_BYTES = 2**26


@dataclass(frozen=True, slots=True)
class Findings:
    """What belongs to a plan and is not in it."""

    name: str
    price_source: str
    advice: Sequence[str] | None
    """Settings with which it would fit; None = none of ours do."""
    longest: Mapping[str, int]
    """Stage -> the longest response with which it fits."""
    free: Mapping[str, tuple[str, float]]
    """Place -> the directory there and its free bytes."""


def plan_text(plan: Plan, findings: Findings) -> str:
    device = plan.machine.device
    lines = [
        f"{findings.name}: {plan.shape.num_parameters / 1e9:.3f} B parameters on "
        f"{plan.machine.num_gpus} x {device.name} ({_gib(device.memory_bytes)} GiB, "
        f"{USABLE:.0%} usable)",
        "",
        *_memory_lines(plan),
        "",
        *_cost_lines(plan),
        "",
        *(_disk_line(need, *findings.free[need.place]) for need in plan.disk),
        *_assumption_lines(plan, findings),
        "",
        *_verdict_lines(plan, findings),
    ]
    return "\n".join(lines)


def _memory_lines(plan: Plan) -> list[str]:
    width = _name_width(plan)
    lines = [f"{'stage':<{width}}{'phase':<10}{'peak GiB':>9}{'host GiB':>9}  of which, in GiB"]
    for phase in plan.phases:
        parts = sorted(phase.parts.items(), key=lambda part: -part[1])
        shown = ", ".join(f"{name} {_gib(size)}" for name, size in parts if size >= SHOWN_BYTES)
        host = _gib(phase.host) if phase.host else ""
        row = f"{phase.stage:<{width}}{phase.phase:<10}{_gib(phase.total):>9}{host:>9}"
        lines.append(f"{row}  {shown} ({phase.moment})")
    return lines


def _name_width(plan: Plan) -> int:
    """Of the column of stages' names."""
    return max(12, *(len(stage.work.stage) + 2 for stage in plan.stages))


def _cost_lines(plan: Plan) -> list[str]:
    row = f"{{:<{_name_width(plan)}}}{{:>7}}{{:>11}}{{:>11}}{{:>11}}{{:>11}}{{:>11}}{{:>10}}".format
    lines = [
        row("stage", "steps", "generate", "train", "send", "together", "s a step", "$ a step")
        + f"{'$':>10}"
    ]
    for stage in plan.stages:
        seconds, each = stage.seconds, stage.seconds_per_step
        if not seconds.total:
            continue
        cells = [
            stage.work.stage,
            stage.work.num_steps or "",
            time_text(seconds.generate),
            time_text(seconds.train + seconds.optimizer),
            time_text(seconds.communicate),
            time_text(seconds.total),
            "" if each is None else f"{each:.3g}",
            "" if each is None else _usd(plan.usd(each)),
        ]
        lines.append(row(*cells) + f"{_usd(plan.usd(seconds.total)):>10}")
    total = row("all", "", "", "", "", time_text(plan.seconds), "", "")
    return [*lines, total + f"{_usd(plan.usd(plan.seconds)):>10}"]


def _disk_line(need: DiskNeed, directory: str, free: float) -> str:
    states = f" and training states {_gib(need.states)}" if need.states else ""
    line = f"disk, {need.place}: models {_gib(need.models)}{states} GiB"
    short = ": too little, if it is to run here" if free < need.total else ""
    return f"{line}; {_gib(free)} GiB are free under {directory}{short}"


def _assumption_lines(plan: Plan, findings: Findings) -> list[str]:
    assumed = ", ".join(
        f"{field.name} {getattr(plan.assumptions, field.name):g}"
        for field in fields(plan.assumptions)
    )
    price = plan.machine.usd_per_hour
    paid = "none, so no $" if price is None else f"{price:g} $/h ({findings.price_source})"
    lines = [f"assumed: {assumed} (--assume NAME=VALUE)", f"price: {paid}"]
    if isinstance(plan.machine.device, Cpu):
        lines.append("a CPU is planned with one thread, at the rates of cpu.py (--rate NAME=VALUE)")
    return lines


def _verdict_lines(plan: Plan, findings: Findings) -> list[str]:
    lines = [
        f"longest response that fits in {stage}: {tokens} tokens"
        for stage, tokens in findings.longest.items()
    ]
    smallest = smallest_gpu(plan)
    name = smallest.name if smallest else "none of them"
    if plan.fits:
        return [*lines, f"it fits; the smallest listed GPU on which it does: {name}"]
    peak = plan.peak
    assert peak is not None, "nothing cannot be too much"
    lines.append(f"it does not fit: {_place(peak)} needs {_gib(peak.total)} GiB")
    if findings.advice is None:
        lines.append("no setting makes it fit: a smaller window, an adapter or a larger GPU would")
    else:
        lines.append("it would fit with " + " ".join(f"--set {item}" for item in findings.advice))
    return [*lines, f"as it is, the smallest listed GPU on which it fits: {name}"]


def _place(phase: PhaseMemory) -> str:
    return f"{phase.stage}/{phase.phase}"


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"


def time_text(seconds: float) -> str:
    """Hours with two digits, below ten minutes seconds; empty for 0."""
    if not seconds:
        return ""
    return f"{seconds / HOUR:.2f} h" if seconds >= HOUR / 6 else f"{seconds:.1f} s"


def _usd(amount: float | None) -> str:
    """Two digits that say something, or cents."""
    if amount is None:
        return ""
    return f"{amount:.2f}" if amount >= 1 else f"{amount:.2g}"
