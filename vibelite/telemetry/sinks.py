"""Where steps are shown beside steps.jsonl, which stays the record of truth.

Nothing is sent anywhere: both sinks write on this machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol

from vibelite.errors import RecipeError
from vibelite.types import StepRecord


class Sink(Protocol):
    """One place that steps of one stage are shown."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...


def open_sinks(
    kinds: Sequence[Literal["tensorboard", "trackio"]], *, run_dir: Path, stage: str, project: str
) -> list[Sink]:
    """A stage's sinks. RecipeError where one's library is missing."""
    sinks: list[Sink] = []
    for kind in kinds:
        if find_spec(kind) is None:
            raise RecipeError(
                f"tracking: {kind} is not installed; pip install 'vibelite[track]', or leave it out"
            )
        match kind:
            case "tensorboard":
                from vibelite.telemetry.tensorboard_sink import TensorBoardSink

                sinks.append(TensorBoardSink(run_dir, stage))
            case "trackio":
                from vibelite.telemetry.trackio_sink import TrackioSink

                sinks.append(TrackioSink(run_dir, stage, project))
    return sinks


def numbers_of(record: StepRecord) -> dict[str, float]:
    """The metrics of a step, its seconds, tokens and peak memory, and its money where known."""
    values = dict(record.metrics)
    values |= {f"seconds/{span}": seconds for span, seconds in record.seconds.items()}
    values |= {f"tokens/{use}": float(number) for use, number in record.tokens.items()}
    values["memory/peak_gib"] = max(record.peak_bytes.values()) / (1 << 30)
    if record.usd is not None:
        values["usd/step"] = record.usd
    if record.usd_so_far is not None:
        values["usd/so_far"] = record.usd_so_far
    return values
