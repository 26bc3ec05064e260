"""What a stage writes down while it runs: steps.jsonl, samples.jsonl, the ledger and one plain
console line per step.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Any

from vibelite.errors import RunStopped, VibeLiteError
from vibelite.recipe.run_section import Budget, Cost
from vibelite.run_dir import StageDir, append_jsonl
from vibelite.telemetry.guard import RunGuard
from vibelite.telemetry.ledger import Ledger, run_cost, stage_cost
from vibelite.telemetry.memory import LeakWatch
from vibelite.telemetry.meter import Lap, Meter
from vibelite.types import StepRecord

__all__ = ["Recorder", "stage_cost"]

# Metrics on the console, with the names used there; those a step does not have are left out.
CONSOLE_METRICS = {
    "sft/loss": "loss",
    "reward/mean": "reward",
    "policy/loss": "loss",
    "policy/entropy": "entropy",
    "completion/mean_tokens": "tokens",
    "optimizer/grad_norm": "grad",
}


class Recorder:
    """Records one stage of a run. Time and tokens are the meter's since the last record."""

    def __init__(
        self,
        stage: str,
        stage_dir: StageDir,
        ledger_path: Path,
        cost: Cost,
        meter: Meter,
        guard: RunGuard | None = None,
    ) -> None:
        """`guard` ends the run early; None = nothing does."""
        self._stage = stage
        self._stage_dir = stage_dir
        self._meter = meter
        self._leak_watch = LeakWatch()
        self._ledger = Ledger(ledger_path, cost.usd_per_hour)
        seconds, usd = run_cost(ledger_path)
        self._usd_spent = usd if seconds else Decimal(0)
        self._guard = guard or RunGuard(Budget(), cost, ledger_path)
        self._guard.new_stage()

    def record_step(self, step: int, metrics: Mapping[str, float]) -> StepRecord:
        """Closes step `step` (1-based): one line in steps.jsonl, one in the ledger, one on stderr.

        Raises VibeLiteError when a metric is not finite, before anything is written.
        """
        self._require_finite(step, metrics)
        lap = self._meter.lap()
        usd = self._append_to_ledger(lap, step, "step", {})
        record = StepRecord(
            stage=self._stage,
            step=step,
            metrics=dict(metrics),
            seconds=lap.seconds,
            tokens=lap.tokens,
            peak_bytes=lap.peak_bytes,
            usd=usd,
        )
        append_jsonl(self._stage_dir.steps_path, [asdict(record)])
        self._print(f"{self._stage} {step}", metrics, lap)
        self._leak_watch.check(step)
        return record

    def record_samples(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends rows of step `step` to samples.jsonl."""
        append_jsonl(self._stage_dir.samples_path, [{"step": step, **row} for row in rows])

    def record_work(self, what: str, **details: Any) -> Lap:
        """One ledger line for time that belongs to no step: load, probe, evaluate, checkpoint."""
        lap = self._meter.lap()
        self._append_to_ledger(lap, None, what, details)
        label = " ".join([self._stage, what, *(f"{key}={value}" for key, value in details.items())])
        self._print(label, {}, lap)
        return lap

    def reason_to_stop(self) -> RunStopped | None:
        """Asked after a step: why the next one must not begin. The caller saves, then raises it."""
        return self._guard.reason_to_stop()

    def stop_if_needed(self) -> None:
        """Asked where everything is on disk: raises the reason to stop, if there is one."""
        self._guard.check()

    def check_deadline(self) -> None:
        """Asked between completions: raises BudgetReached when time is up within a step."""
        self._guard.check_deadline()

    def _append_to_ledger(
        self, lap: Lap, step: int | None, what: str, details: dict[str, Any]
    ) -> float | None:
        """Writes the line and adds to what is spent; the lap's price in USD."""
        usd = self._ledger.append(lap, stage=self._stage, step=step, what=what, details=details)
        if usd is None or self._usd_spent is None:
            self._usd_spent = None
        else:
            self._usd_spent += usd
        self._guard.record(lap, is_step=step is not None)
        return None if usd is None else float(usd)

    def _require_finite(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise VibeLiteError(
                    f"stage {self._stage!r}, step {step}: {name} is {value}; the run cannot go on. "
                    "Lower optimizer.lr, or look at the last samples of this stage"
                )

    def _print(self, label: str, metrics: Mapping[str, float], lap: Lap) -> None:
        parts = [label]
        parts += [
            f"{name} {metrics[key]:.4g}" for key, name in CONSOLE_METRICS.items() if key in metrics
        ]
        parts.append(f"{lap.wall_seconds:.2f} s")
        if self._usd_spent is not None:
            parts.append(f"${self._usd_spent:.4f} so far")
        print("  ".join(parts), file=sys.stderr)
