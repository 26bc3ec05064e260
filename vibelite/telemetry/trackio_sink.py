"""Steps in trackio's data base on this machine: `trackio show --project NAME`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


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
