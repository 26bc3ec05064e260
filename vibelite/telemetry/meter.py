"""Where the time of a run goes: exclusive spans that add up to wall time, the memory each of them
needed, and token counts.

Time is kept in integer nanoseconds, so that nothing is lost in sums. The meter does not wait for a
GPU: work that was only queued counts for the span in which the program waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from vibelite.telemetry.memory import take_peak_bytes

# What no span claims.
IDLE = "idle"
NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Lap:
    """What happened between two calls of `Meter.lap`."""

    nanoseconds: dict[str, int]
    """By span, IDLE included; the sum is the wall time."""
    tokens: dict[str, int]
    """By use: prompt, generated, trained."""
    peak_bytes: dict[str, int]
    """By span, the most memory in use while it ran."""

    @property
    def wall_nanoseconds(self) -> int:
        return sum(self.nanoseconds.values())

    @property
    def wall_seconds(self) -> float:
        return self.wall_nanoseconds / NANOSECONDS

    @property
    def seconds(self) -> dict[str, float]:
        """By span; rounded once per span, so their sum is the wall time up to a rounding error."""
        return {span: value / NANOSECONDS for span, value in self.nanoseconds.items()}


class Meter:
    """A stopwatch with named spans, of which exactly one runs at any time.

    >>> ticks = iter([0, 10, 30, 35, 100, 100])
    >>> meter = Meter(clock=lambda: next(ticks))
    >>> with meter.span("train"):
    ...     with meter.span("checkpoint"):
    ...         pass
    >>> meter.lap().nanoseconds
    {'idle': 10, 'train': 85, 'checkpoint': 5}
    """

    def __init__(
        self,
        clock: Callable[[], int] = time.perf_counter_ns,
        take_peak: Callable[[], int] = take_peak_bytes,
    ) -> None:
        """`clock` returns monotonic nanoseconds; `take_peak` the most bytes used since its last
        call.
        """
        self._clock = clock
        self._take_peak = take_peak
        self._running = [IDLE]
        self._since = clock()
        self._reset()

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Counts the time inside for `name`; a span within it pauses it."""
        self._settle()
        self._running.append(name)
        try:
            yield
        finally:
            self._settle()
            self._running.pop()

    def add_tokens(self, *, prompt: int = 0, generated: int = 0, trained: int = 0) -> None:
        """Counts tokens read by an engine, sampled by it, and passed through a training step."""
        self._tokens["prompt"] += prompt
        self._tokens["generated"] += generated
        self._tokens["trained"] += trained

    def lap(self) -> Lap:
        """Everything since the last lap, or since the meter was made; spans that are open go on."""
        self._settle()
        lap = Lap(self._nanoseconds, self._tokens, self._peak_bytes)
        self._reset()
        return lap

    def _settle(self) -> None:
        """Gives the time and the peak since the last call to the span that runs."""
        span = self._running[-1]
        self._peak_bytes[span] = max(self._peak_bytes.get(span, 0), self._take_peak())
        now = self._clock()
        self._nanoseconds[span] = self._nanoseconds.get(span, 0) + now - self._since
        self._since = now

    def _reset(self) -> None:
        self._nanoseconds: dict[str, int] = {IDLE: 0}
        self._peak_bytes: dict[str, int] = {}
        self._tokens = {"prompt": 0, "generated": 0, "trained": 0}
