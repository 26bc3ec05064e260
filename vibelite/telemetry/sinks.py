"""Where steps are shown besides steps.jsonl, which stays the record of truth: TensorBoard's event
files (`tensorboard --logdir runs`) and trackio's data base (`trackio show --project NAME`).

Nothing is sent anywhere: both write on this machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from vibelite.errors import RecipeError
from vibelite.hints import install
from vibelite.types import StepRecord
from vibelite.units import GIB


class Sink(Protocol):
    """One place that steps of one stage are shown."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...


class TensorBoardSink:
    """Event files of one stage in `RUN_DIR/tensorboard/STAGE`, made at its first step."""

    def __init__(self, run_dir: Path, stage: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._make_writer = SummaryWriter
        self._path = run_dir / "tensorboard" / stage
        self._writer: SummaryWriter | None = None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Values of step `step`; those of an earlier process from this step on are hidden."""
        if self._writer is None:
            self._writer = self._make_writer(str(self._path), purge_step=step)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()


class TrackioSink:
    """One trackio run for each stage, in the project of the recipe's name; none before its first
    step, and none for stages without steps. Where the data base lies is trackio's TRACKIO_DIR. A
    step that is done again after an interruption is there twice.
    """

    def __init__(self, run_dir: Path, stage: str, project: str) -> None:
        import trackio  # pyright: ignore[reportMissingImports]

        self._trackio = trackio
        self._names = {"project": project, "name": f"{run_dir.name}-{stage}", "group": run_dir.name}
        self._run: Any = None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Values of step `step`."""
        if self._run is None:
            self._run = self._trackio.init(
                **self._names, resume="allow", auto_log_gpu=False, auto_log_cpu=False
            )
        self._run.log(dict(values), step=step)


def open_sinks(
    kinds: Sequence[Literal["tensorboard", "trackio"]], *, run_dir: Path, stage: str, project: str
) -> list[Sink]:
    """A stage's sinks. RecipeError where one's library is missing."""
    sinks: list[Sink] = []
    for kind in kinds:
        if find_spec(kind) is None:
            raise RecipeError(
                f"tracking: {kind} is not installed; leave it out, or run "
                + install("vibelite[track]")
            )
        match kind:
            case "tensorboard":
                sinks.append(TensorBoardSink(run_dir, stage))
            case "trackio":
                sinks.append(TrackioSink(run_dir, stage, project))
    return sinks


def numbers_of(record: StepRecord) -> dict[str, float]:
    """The metrics of a step, its seconds, tokens and peak memory, and its money where known."""
    values = dict(record.metrics)
    values |= {f"seconds/{span}": seconds for span, seconds in record.seconds.items()}
    values |= {f"tokens/{use}": float(number) for use, number in record.tokens.items()}
    values["memory/peak_gib"] = max(record.peak_bytes.values()) / GIB
    if record.usd is not None:
        values["usd/step"] = record.usd
    if record.usd_so_far is not None:
        values["usd/so_far"] = record.usd_so_far
    return values
