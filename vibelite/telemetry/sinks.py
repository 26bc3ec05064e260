"""Where steps are shown besides steps.jsonl, which stays the record of truth: TensorBoard's event
files (`tensorboard --logdir runs`). Nothing is sent anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from vibelite.errors import RecipeError
from vibelite.hints import install
from vibelite.types import StepRecord
from vibelite.units import GIB


class TensorBoardSink:
    """Event files of one stage in `RUN_DIR/tensorboard/STAGE`, made at its first step. RecipeError
    without TensorBoard.
    """

    def __init__(self, run_dir: Path, stage: str) -> None:
        if find_spec("tensorboard") is None:
            raise RecipeError(
                "tracking: tensorboard is not installed; leave it out, or run "
                + install("vibelite[track]")
            )
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


def numbers_of(record: StepRecord) -> dict[str, float]:
    """The metrics of a step, its seconds, tokens and peak memory, and its money where known."""
    values = dict(record.metrics)
    values |= {f"seconds/{span}": seconds for span, seconds in record.seconds.items()}
    values |= {f"tokens/{use}": float(number) for use, number in record.tokens.items()}
    values["memory/peak_gib"] = max(record.peak_bytes.values()) / GIB
    money = {"usd/step": record.usd, "usd/so_far": record.usd_so_far}
    return values | {name: usd for name, usd in money.items() if usd is not None}
