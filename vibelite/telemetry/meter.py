"""Where the time of a run goes: exclusive spans that add up to wall time, the memory each of them
needed, energy, and counts of tokens and completions.

The spans: boot (the process starts and loads libraries), data (problems and traces are read), load
(models), engine (one starts or ends), rollout (sampling), verify, train, optimizer, sync (weights
to the engine), wait (for other ranks), checkpoint, score, results (of samples, and their files),
fuse, export, report, and idle: what no span claims. Work that a GPU was only given counts for the
span in which the program waits for it.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from vibelite.telemetry.energy import ReadEnergy, ReadUse, no_energy
from vibelite.telemetry.memory import take_peak_bytes
from vibelite.units import NANOSECONDS

PROCESS_STAT = Path("/proc/self/stat")

BOOT = "boot"
IDLE = "idle"


@dataclass(frozen=True, slots=True)
class Lap:
    """What happened between two calls of `Meter.lap`: time by span, whose sum is wall time; tokens
    by use (prompt, generated, trained); the most memory in use by span; counts of what was made;
    energy, and the share of the time in which the GPUs worked, 0..1, None = unknown.
    """

    nanoseconds: dict[str, int]
    tokens: dict[str, int]
    peak_bytes: dict[str, int]
    counts: dict[str, int] = field(default_factory=dict)
    gpu_millijoules: int | None = None
    gpu_use: float | None = None

    @property
    def wall_seconds(self) -> float:
        return sum(self.nanoseconds.values()) / NANOSECONDS

    @property
    def seconds(self) -> dict[str, float]:
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
        *,
        read_energy: ReadEnergy = no_energy,
        read_use: ReadUse = no_energy,
        boot_nanoseconds: int = 0,
    ) -> None:
        """`clock` returns monotonic nanoseconds; `take_peak` the most bytes used since its last
        call; `read_energy` the GPUs' millijoules so far; `read_use` their use since its last call.
        `boot_nanoseconds` passed before the meter was made and belong to it.
        """
        self._clock = clock
        self._take_peak = take_peak
        self._read_energy = read_energy
        self._read_use = read_use
        self._running = [IDLE]
        self._since = clock()
        self._energy_before = read_energy()
        self._reset()
        if boot_nanoseconds:
            self._nanoseconds[BOOT] = boot_nanoseconds

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

    @property
    def running(self) -> str:
        return self._running[-1]

    def add_tokens(self, *, prompt: int = 0, generated: int = 0, trained: int = 0) -> None:
        """Counts tokens read by an engine, sampled by it, and passed through a training step."""
        for use, number in zip(self._tokens, (prompt, generated, trained), strict=True):
            self._tokens[use] += number

    def add_counts(self, counts: Mapping[str, int]) -> None:
        """Adds to the lap's counts, such as those of `completion_counts`."""
        self._counts.update(counts)

    def lap(self) -> Lap:
        """Everything since the last lap, or since the meter was made; spans that are open go on."""
        self._settle()
        before, self._energy_before = self._energy_before, self._read_energy()
        now = self._energy_before
        energy = None if before is None or now is None else now - before
        made = (self._nanoseconds, self._tokens, self._peak_bytes, dict(self._counts))
        lap = Lap(*made, energy, self._read_use())
        self._reset()
        return lap

    @property
    def unrecorded_nanoseconds(self) -> int:
        """Since the last lap; no lap ends here."""
        return sum(self._nanoseconds.values()) + self._clock() - self._since

    @property
    def generated_tokens(self) -> int:
        return self._tokens["generated"]

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
        self._counts: Counter[str] = Counter()


def joint_lap(laps: Sequence[Lap]) -> Lap:
    """The laps of several ranks as one: the leader's, whose time is paid for once, with the tokens
    of all ranks and the most memory that one of them used.
    """
    leader = laps[0]
    tokens = {use: sum(lap.tokens[use] for lap in laps) for use in leader.tokens}
    spans = dict.fromkeys(span for lap in laps for span in lap.peak_bytes)
    peaks = {span: max(lap.peak_bytes.get(span, 0) for lap in laps) for span in spans}
    return replace(leader, tokens=tokens, peak_bytes=peaks)


def process_nanoseconds() -> int:
    """How long ago this process was started: what the interpreter and imports took before a meter
    could be made. To 10 ms on Linux (proc(5): start time in clock ticks since boot).
    """
    if PROCESS_STAT.exists():
        # The second field is the program's name in parentheses, in which anything may stand.
        fields = PROCESS_STAT.read_text(encoding="utf-8").rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - started
    else:
        import psutil

        age = time.time() - psutil.Process().create_time()
    return max(0, round(age * NANOSECONDS))
