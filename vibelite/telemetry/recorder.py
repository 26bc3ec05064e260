"""What a stage writes down while it runs: steps.jsonl, samples.jsonl, ledger, console, sinks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from vibelite.errors import NothingLearned, RunStopped, VibeLiteError
from vibelite.ranks.ranks import ONE_RANK, Ranks
from vibelite.run_dir import StageDir, append_jsonl, read_json, read_jsonl, write_json_atomic
from vibelite.telemetry.health import WARNINGS_NAME, Health, why_no_signal
from vibelite.telemetry.memory import LeakWatch
from vibelite.telemetry.meter import Lap, Meter, joint_lap
from vibelite.telemetry.progress import ProgressLine
from vibelite.telemetry.sinks import Sink, numbers_of
from vibelite.telemetry.spending import project
from vibelite.telemetry.stop import StopRules
from vibelite.types import StepRecord
from vibelite.units import NANOSECONDS


class Recorder:
    """Records one stage of a run. Time and tokens are the meter's since the last record."""

    def __init__(
        self,
        stage: str,
        stage_dir: StageDir,
        meter: Meter,
        stop: StopRules,
        *,
        num_steps: int | None = None,
        ranks: Ranks = ONE_RANK,
        sinks: Sequence[Sink] = (),
    ) -> None:
        """`num_steps` of the whole stage; None = it has none. Of `ranks` the leader writes."""
        self._ranks = ranks
        self._num_recorded = 0
        self._stage = stage
        self._stage_dir = stage_dir
        self._meter = meter
        self._stop = stop
        self._spending = stop.spending
        stop.new_stage(stage)
        self._leak_watch = LeakWatch()
        self._health: Health | None = None
        self._num_steps = num_steps
        self._sinks = sinks
        self._console = ProgressLine(stage, num_steps)
        self._why_no_signal = ""
        # USD of each step with the work since the step before it, such as checkpoints.
        self._step_usd: list[float] = []
        self._usd_at_last_step = self._usd_so_far()

    def record_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Closes step `step` (1-based): one line in steps.jsonl, one in the ledger, one on stderr.

        Raises VibeLiteError when a metric is not finite, before anything is written.
        """
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise VibeLiteError(
                    f"stage {self._stage!r}, step {step}: {name} is {value}; the run cannot go on. "
                    "Lower optimizer.lr, or look at the last samples of this stage"
                )
        self._num_recorded = step
        lap = joint_lap(self._ranks.gather(self._meter.lap()))
        if self._ranks.is_leader:
            self._write_step(step, metrics, lap)
        self._leak_watch.check(step)

    def _write_step(self, step: int, metrics: Mapping[str, float], lap: Lap) -> None:
        if self._health is None:  # the steps that a resumed stage keeps are known only now
            rows = read_jsonl(self._stage_dir.steps_path)
            earlier = [row["metrics"] | row["counts"] for row in rows if row["step"] < step]
            self._health = Health(earlier)
        health, begun = self._health.look({**metrics, **lap.counts})
        usd = self._spending.record(lap, stage=self._stage, step=step)
        record = StepRecord(
            stage=self._stage,
            step=step,
            metrics=dict(metrics),
            seconds=lap.seconds,
            tokens=lap.tokens,
            peak_bytes=lap.peak_bytes,
            counts=lap.counts,
            joules=None if lap.gpu_millijoules is None else lap.gpu_millijoules / 1000,
            gpu_use=lap.gpu_use,
            usd=None if usd is None else float(usd),
            usd_so_far=self._usd_so_far(),
            usd_at_end_of_stage=self._project(step),
            health=health,
        )
        append_jsonl(self._stage_dir.steps_path, [asdict(record)])
        for sink in self._sinks:
            sink.log(step, numbers_of(record))
        # What was saved since the step before is not this one's time.
        self._console.step(record, lap.wall_seconds - lap.seconds.get("checkpoint", 0.0))
        for cause in begun:
            self._console.warn(f"{self._stage}, step {step}: {health[cause]}")
        self._why_no_signal = why_no_signal(metrics) if self._health.num_without_signal else ""

    def describe(self) -> str:
        return f"stage {self._stage!r}, step {self._num_recorded + 1}, {self._meter.running}"

    def record_samples(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends rows of step `step` to samples.jsonl."""
        if self._ranks.is_leader:
            append_jsonl(self._stage_dir.samples_path, [{"step": step, **row} for row in rows])

    def record_work(self, what: str, **details: Any) -> Lap:
        """One ledger line for time that belongs to no step: load, probe, evaluate, checkpoint."""
        lap = self._meter.lap()
        if self._ranks.is_leader:
            self._spending.record(lap, stage=self._stage, what=what, **details)
            named = [f"{key}={value}" for key, value in details.items()]
            label = " ".join([self._stage, what, *named])
            self._console.work(label, lap.wall_seconds, self._usd_so_far())
        return lap

    def warn(self, cause: str, sentence: str) -> None:
        """Tells on the console and in the report what is wrong before the first step."""
        if self._ranks.is_leader:
            path = self._stage_dir.path / WARNINGS_NAME
            write_json_atomic(path, (read_json(path) if path.exists() else {}) | {cause: sentence})
            self._console.warn(f"{self._stage}: {sentence}")

    def reason_to_stop(self) -> RunStopped | None:
        """Asked after a step: why the next one must not begin. The caller saves, then raises it."""
        return self._ranks.from_leader(
            lambda: self._stop.reason_to_stop() or self._nothing_learned()
        )

    def _nothing_learned(self) -> NothingLearned | None:
        number = 0 if self._health is None else self._health.num_without_signal
        limit = self._stop.budget.steps_without_signal
        if not limit or number < limit or self._num_recorded == self._num_steps:
            return None
        return NothingLearned(
            f"stage {self._stage!r}, step {self._num_recorded}: {number} steps in a row without a "
            f"group whose rewards differ, so nothing is learned; {self._why_no_signal}. To go on "
            "all the same raise budget.steps_without_signal (0 = no limit)"
        )

    def stop_if_needed(self) -> None:
        """Asked where everything is on disk: raises the reason to stop, if there is one."""
        self._ranks.from_leader(self._stop.check)

    def expect_completions(self, number: int) -> None:
        """So many are about to be sampled, with `check_deadline` after each: for the console."""
        self._console.expect(number)

    def check_deadline(self) -> None:
        """Asked after every completion: raises BudgetReached when time is up within a step."""
        self._stop.check_deadline()
        if self._ranks.is_leader:
            seconds = self._meter.unrecorded_nanoseconds / NANOSECONDS
            self._console.sampled(self._meter.generated_tokens, seconds)

    def _project(self, step: int) -> tuple[float, float, float] | None:
        """USD of the run at the end of this stage, and the ends of its interval."""
        spent, before = self._usd_so_far(), self._usd_at_last_step
        if before is None or spent is None or self._num_steps is None:
            return None
        self._usd_at_last_step = spent
        self._step_usd.append(spent - before)
        # The first step of a process also paid for loading.
        ahead = project(self._step_usd[1:], self._num_steps - step)
        if ahead is None:
            return None
        middle, low, high = (spent + amount for amount in ahead)
        return middle, low, high

    def _usd_so_far(self) -> float | None:
        usd = self._spending.usd
        return None if usd is None else float(usd)
