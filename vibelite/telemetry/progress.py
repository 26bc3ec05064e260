"""How far a stage is, on the console: a line per step and, on a terminal, a bar within it."""

from __future__ import annotations

import atexit
import sys
import time
from collections import deque
from statistics import fmean

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from vibelite.types import StepRecord
from vibelite.units import duration, short_number, usd_text

# Metrics on the console, with the names used there; those a step does not have are left out.
CONSOLE_METRICS = {
    "sft/loss": "loss",
    "reward/mean": "reward",
    "policy/loss": "loss",
    "policy/entropy": "entropy",
    "completion/mean_tokens": "tokens",
    "optimizer/grad_norm": "grad",
}
# With one update per rollout the policy's loss is 0 but for rounding, and says nothing.
ROUNDING = 1e-5
# Counts shown only when above 0.
CONSOLE_COUNTS = {
    "verify/failures_timeout": "verifier timeouts",
    "verify/failures_crash": "verifier crashes",
    "verify/failures_exception": "verifier exceptions",
    "verify/unverifiable": "unverifiable",
}

# Steps whose mean says how long the next ones take; the first of a process is often the slowest.
MIN_STEPS, WINDOW = 3, 20
# The bar is drawn by whoever works: no thread, which processes of verifiers would be forked beside.
SECONDS_PER_DRAWING = 0.2


class ProgressLine:
    """The console of one stage."""

    def __init__(self, stage: str, num_steps: int | None, console: Console | None = None) -> None:
        """`num_steps` None: the stage has no steps, and the bar tells no end."""
        self._stage = stage
        self._num_steps = num_steps
        self._console = console or Console(stderr=True)
        self._bar: Progress | None = None
        self._done = 0
        self._money = ""
        self._drawn = 0.0
        self._expected, self._sampled, self._began = 0, 0, 0.0
        self._seconds: deque[float] = deque(maxlen=WINDOW)

    def step(self, record: StepRecord, seconds: float) -> None:
        self._done = record.step
        self._seconds.append(seconds)
        money = money_parts(record)
        self._money = "  ".join(money)
        if record.step == self._num_steps:
            self.close()
        else:
            self._draw("", at_once=True)
        parts = [*step_parts(record, seconds), *money, self._time_left()]
        print("  ".join(filter(None, parts)), file=sys.stderr)

    def work(self, label: str, seconds: float, usd_so_far: float | None) -> None:
        """The line of work that is no step, such as loading; no bar is left under it."""
        self.close()
        money = [] if usd_so_far is None else [f"${usd_text(usd_so_far)} so far"]
        print("  ".join([label, duration(seconds), *money]), file=sys.stderr)

    def warn(self, message: str) -> None:
        print(f"warning: {message}", file=sys.stderr)

    def expect(self, num_completions: int) -> None:
        """So many completions are about to be sampled; `sampled` is called after each."""
        self._expected, self._sampled, self._began = num_completions, 0, time.monotonic()

    def sampled(self, tokens: int, seconds: float) -> None:
        """Another completion has ended; `tokens` were generated in the last `seconds`."""
        self._sampled += 1
        parts = [f"{self._sampled}/{self._expected} completions"]
        if seconds > 0:
            parts.append(f"{tokens / seconds:.0f} tokens/s")
        if self._num_steps is None and self._sampled < self._expected:
            elapsed = time.monotonic() - self._began
            left = elapsed * (self._expected - self._sampled) / self._sampled
            parts.append(f"{duration(left)} left")  # or more: short ones end first
        self._draw("  ".join(parts), at_once=False)

    def _time_left(self) -> str:
        if not self._num_steps or len(self._seconds) < MIN_STEPS or self._done >= self._num_steps:
            return ""
        return f"{duration((self._num_steps - self._done) * fmean(self._seconds))} left"

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _draw(self, what: str, *, at_once: bool) -> None:
        now = time.monotonic()
        if not self._console.is_terminal or (
            not at_once and now - self._drawn < SECONDS_PER_DRAWING
        ):
            return
        self._drawn = now
        parts = [what, self._time_left(), self._money]
        if self._bar is None:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[status]}", markup=False),
                console=self._console, auto_refresh=False, transient=True,
            )  # fmt: skip
            self._bar.add_task(self._stage, status="")
            self._bar.start()
            atexit.register(self.close)  # also after an error: the cursor comes back
        (task,) = self._bar.task_ids
        done, total = self._done, self._num_steps
        if total is None:  # what is sampled is all there is to tell
            done, total = self._sampled, self._expected
        self._bar.update(task, completed=done, total=total, status="  ".join(filter(None, parts)))
        self._bar.refresh()


def step_parts(record: StepRecord, seconds: float) -> list[str]:
    metrics = record.metrics
    parts = [f"{record.stage} {record.step}"]
    parts += [
        f"{name} {short_number(metrics[key])}"
        for key, name in CONSOLE_METRICS.items()
        if key in metrics and (key != "policy/loss" or abs(metrics[key]) > ROUNDING)
    ]
    parts += [
        f"{name} {metrics[key]:.0f}" for key, name in CONSOLE_COUNTS.items() if metrics.get(key)
    ]
    parts.append(duration(seconds))
    if tokens := record.tokens["generated"] or record.tokens["trained"]:
        parts.append(f"{tokens / seconds:.0f} tokens/s")
    if record.usd is not None:
        parts.append(f"${usd_text(record.usd)}")
    return parts


def money_parts(record: StepRecord) -> list[str]:
    parts = []
    if record.usd_so_far is not None:
        parts.append(f"${usd_text(record.usd_so_far)} so far")
    if record.usd_at_end_of_stage is not None:
        total, low, high = map(usd_text, record.usd_at_end_of_stage)
        parts.append(f"${total} ({low} to {high}) after {record.stage}")
    return parts
