"""Steps as TensorBoard event files: `tensorboard --logdir runs`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


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
