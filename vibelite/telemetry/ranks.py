"""A step on several ranks: what each measured, as one record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vibelite.telemetry.meter import Lap
from vibelite.units import NANOSECONDS


def joint_lap(laps: Sequence[Lap]) -> Lap:
    """The leader's lap, whose time is paid for once, with the tokens of all ranks and the most
    memory that one of them used.
    """
    leader = laps[0]
    tokens = {use: sum(lap.tokens[use] for lap in laps) for use in leader.tokens}
    spans = dict.fromkeys(span for lap in laps for span in lap.peak_bytes)
    peaks = {span: max(lap.peak_bytes.get(span, 0) for lap in laps) for span in spans}
    return replace(leader, tokens=tokens, peak_bytes=peaks)


def spread_of(laps: Sequence[Lap]) -> dict[str, dict[str, Any]]:
    """Fields of a StepRecord: the largest and the mean over ranks by span; nothing for one rank."""
    if len(laps) == 1:
        return {}
    spans = dict.fromkeys(span for lap in laps for span in lap.nanoseconds)
    seconds = {s: [lap.nanoseconds.get(s, 0) / NANOSECONDS for lap in laps] for s in spans}
    peaks = {s: [lap.peak_bytes.get(s, 0) for lap in laps] for s in spans}
    return {
        "seconds_max": {span: max(values) for span, values in seconds.items()},
        "seconds_mean": {span: sum(values) / len(laps) for span, values in seconds.items()},
        "peak_bytes_mean": {span: sum(values) / len(laps) for span, values in peaks.items()},
    }
