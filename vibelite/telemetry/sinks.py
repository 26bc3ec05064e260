"""Where steps are shown besides steps.jsonl, which stays the record of truth: TensorBoard's event
files (`tensorboard --logdir runs`), trackio's data base (`trackio show --project NAME`), Weights &
Biases and MLflow.

TensorBoard and trackio write on this machine. The other two go where their own environment
variables say: W&B to its servers unless WANDB_MODE is offline, MLflow to MLFLOW_TRACKING_URI.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
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
    """One run for each stage, in the project of the recipe's name, by trackio or by W&B, whose
    calls are the same; none before its first step, and none for stages without steps. Where
    trackio's data base lies is its TRACKIO_DIR. A step that is done again after an interruption is
    there twice.
    """

    def __init__(self, library: str, run_dir: Path, stage: str, project: str) -> None:
        self._library: Any = import_module(library)
        self._names = {"project": project, "name": f"{run_dir.name}-{stage}", "group": run_dir.name}
        if library == "trackio":
            self._names |= {"auto_log_gpu": False, "auto_log_cpu": False}
        else:  # the same stage is the same run, in whatever process
            digest = hashlib.sha256(f"{run_dir.resolve()}/{stage}".encode()).hexdigest()
            self._names |= {"dir": str(run_dir), "id": digest[:16], "reinit": "create_new"}
        self._run: Any = None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Values of step `step`."""
        if self._run is None:
            self._run = self._library.init(**self._names, resume="allow")
        self._run.log(dict(values), step=step)


class MLflowSink:
    """One MLflow run for each stage, in the experiment of the recipe's name; none before its first
    step. A resumed stage goes on in its run.
    """

    def __init__(self, run_dir: Path, stage: str, project: str) -> None:
        self._client: Any = import_module("mlflow").MlflowClient()
        self._metric: Any = import_module("mlflow.entities").Metric
        self._project, self._name = project, f"{run_dir.name}-{stage}"
        self._run_id = ""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Values of step `step`, in one call."""
        now = time.time_ns() // 1_000_000
        metrics = [self._metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run_id or self._open(), metrics=metrics)

    def _open(self) -> str:
        known = self._client.get_experiment_by_name(self._project)
        experiment = known.experiment_id if known else self._client.create_experiment(self._project)
        runs = self._client.search_runs([experiment], f"attributes.run_name = '{self._name}'")
        run = runs[0] if runs else self._client.create_run(experiment, run_name=self._name)
        self._run_id = run.info.run_id
        return self._run_id


def open_sinks(
    kinds: Sequence[Literal["tensorboard", "trackio", "wandb", "mlflow"]],
    *,
    run_dir: Path,
    stage: str,
    project: str,
) -> list[Sink]:
    """A stage's sinks. RecipeError where one's library is missing."""
    sinks: list[Sink] = []
    for kind in kinds:
        if find_spec(kind) is None:
            raise RecipeError(
                f"tracking: {kind} is not installed; leave it out, or run "
                + install(f"vibelite[{'mlflow' if kind == 'mlflow' else 'track'}]")
            )
        match kind:
            case "tensorboard":
                sinks.append(TensorBoardSink(run_dir, stage))
            case "trackio" | "wandb":
                sinks.append(TrackioSink(kind, run_dir, stage, project))
            case "mlflow":
                sinks.append(MLflowSink(run_dir, stage, project))
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
