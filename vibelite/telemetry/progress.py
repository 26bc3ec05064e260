"""How far a stage is, on the console: a plain line per step or piece of work and, on a terminal, a
bar under them that moves within a step too.
"""

from __future__ import annotations

import atexit
import sys
import time
from collections import deque

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

# Steps whose mean says how long the next ones take; the first of a process is often the slowest.
MIN_STEPS, WINDOW = 3, 20
# The bar is drawn by whoever works: no thread, which processes of verifiers would be forked beside.
SECONDS_PER_DRAWING = 0.2


class ProgressLine:
    """The console of one stage; where it is no terminal, nothing but the lines is written."""

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

    def line(self, text: str) -> None:
        """A line that stays."""
        print(text, file=sys.stderr)

    def step(self, number: int, seconds: float, money: str) -> float | None:
        """Step `number` is done and took `seconds`; `money`: what is spent and projected. Returns
        the seconds until the stage's last step, if the next ones take as long as the last; None
        where there are too few steps to say, or none to come.
        """
        self._done, self._money = number, money
        self._seconds.append(seconds)
        if number == self._num_steps:
            self.close()
        else:
            self._draw("", at_once=True)
        return self._seconds_left()

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

    def _seconds_left(self) -> float | None:
        if not self._num_steps or len(self._seconds) < MIN_STEPS or self._done >= self._num_steps:
            return None
        return (self._num_steps - self._done) * sum(self._seconds) / len(self._seconds)

    def close(self) -> None:
        """Takes the bar away."""
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
        left = self._seconds_left()
        parts = [what, f"{duration(left)} left" if left else "", self._money]
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


def duration(seconds: float) -> str:
    """Seconds in the units that matter: 42 s, 4 min 05 s, 3 h 07 min.

    >>> duration(245)
    '4 min 05 s'
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
