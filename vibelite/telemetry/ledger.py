"""The ledger: where every second of a run went, appended and never rewritten.

A directory with one file per start of the run, of which the last line may be torn.

    ledger/0001-3f2a9c01d2e4.jsonl      lines of JSON, in the order of "seq"
      open    which start of the run this is, and on how many GPUs
      price   what an hour costs; null = no price
      time    a step or another piece of work: time by span, tokens, counts, energy
      beat    the process lives, and so long ago was its last line of time
      close   why it ended; a file without it belongs to a process that was killed

Time and energy are integers (ns, mJ), money is a decimal string; null is unknown, never 0. No sum
is stored: money is computed from time and price by the reader.
"""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from vibelite.errors import CheckpointError, RecipeError
from vibelite.recipe.run_section import Cost
from vibelite.run_dir import append_text
from vibelite.telemetry.meter import Lap
from vibelite.units import HOUR, NANOSECONDS

VERSION = 2
# Before the first stage: what `boot` and the base model belong to.
FIRST_STAGE = "base"
# What a killed process had not written down: at most half a percent of its time, and 10 seconds.
BEAT_SHARE = 0.005
SHORTEST_BEAT, LONGEST_BEAT = 0.05, 10.0


# One billionth of a dollar: fine enough that rounding never shows in a sum.
USD_QUANTUM = Decimal("1e-9")


@dataclass(frozen=True, slots=True)
class Price:
    """USD for one hour of the whole machine, and who says so."""

    usd_per_hour: Decimal
    source: str = ""

    def usd(self, nanoseconds: int) -> Decimal:
        """What so much time costs, to USD_QUANTUM."""
        return (self.usd_per_hour * nanoseconds / (HOUR * NANOSECONDS)).quantize(USD_QUANTUM)

    def as_json(self) -> dict[str, str]:
        return {"usd_per_hour": f"{self.usd_per_hour:f}", "source": self.source}

    @staticmethod
    def from_json(values: Mapping[str, Any] | None) -> Price | None:
        """None where none was given; a price of version 1 of the ledger is unknown too."""
        if values is None or "usd_per_hour" not in values:
            return None
        return Price(Decimal(values["usd_per_hour"]), values["source"])

    def __str__(self) -> str:
        return f"{self.usd_per_hour:f} USD per hour ({self.source or 'no source'})"


def price_of(cost: Cost, num_gpus: int) -> Price | None:
    """The price that a recipe's `cost` means on a machine with `num_gpus`; None = none is given.

    Raises RecipeError for a price per GPU on a machine without one.
    """
    # Through str: the price as the recipe has it, not its binary neighbour.
    if cost.usd_per_hour is not None:
        return Price(Decimal(str(cost.usd_per_hour)), cost.source)
    if cost.usd_per_gpu_hour is None:
        return None
    if not num_gpus:
        raise RecipeError(
            "cost.usd_per_gpu_hour: this machine has no GPU; give the price of the whole machine "
            "as cost.usd_per_hour"
        )
    each = Decimal(str(cost.usd_per_gpu_hour))
    source = f"{num_gpus} GPUs at {each:f}: {cost.source or 'no source'}"
    return Price(each * num_gpus, source)


def known_sum(amounts: Iterable[Decimal | None]) -> Decimal | None:
    """The sum; None of none, and where a part is unknown: then so is the sum."""
    parts = list(amounts)
    known = [amount for amount in parts if amount is not None]
    return sum(known, Decimal(0)) if parts and len(known) == len(parts) else None


class Ledger:
    """Writes one file, which begins where it is opened, or with its first entry."""

    def __init__(
        self,
        directory: Path,
        price: Price | None,
        *,
        num_gpus: int = 0,
        clock: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        """`clock` returns monotonic nanoseconds."""
        self.directory = directory
        self.price = price
        self.segment = uuid.uuid4().hex[:12]
        self._num_gpus = num_gpus
        self._clock = clock
        self._since = clock()
        self._stage = FIRST_STAGE
        self._sequence = 0
        self._path: Path | None = None
        self._lock = threading.Lock()

    @property
    def unwritten_nanoseconds(self) -> int:
        return self._clock() - self._since

    def begin(self, unrecorded_nanoseconds: int) -> None:
        """Opens the file for a process that has already lived for so long."""
        self.open()
        self._since = self._clock() - unrecorded_nanoseconds
        self.beat()

    def open(self) -> None:
        """Begins the file, if that has not been done."""
        if self._path is not None:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        number = 1 + max(map(segment_number, self.directory.glob("*.jsonl")), default=0)
        self._path = self.directory / f"{number:04d}-{self.segment}.jsonl"
        machine = {"version": VERSION, "number": number, "num_gpus": self._num_gpus}
        self._write({"kind": "open", **machine})
        price = None if self.price is None else self.price.as_json()
        self._write({"kind": "price", "price": price})

    def append(self, lap: Lap, *, stage: str, step: int | None, what: str, **details: Any) -> Entry:
        """Writes one line for `lap` and makes sure it is on disk; what a reader finds in it."""
        self.open()
        self._stage = stage
        line = {
            "kind": "time",
            "stage": stage,
            "step": step,
            "what": what,
            "nanoseconds": lap.nanoseconds,
            "gpu_millijoules": lap.gpu_millijoules,
            "tokens": lap.tokens,
            "counts": lap.counts,
            "details": details,
        }
        written = self._write(line, is_synced=True)
        self._since = self._clock()
        return make_entry(written, self.price)

    def beat(self) -> None:
        """Notes that the process lives, and for how long no time has been written down."""
        if self._path is not None:
            nanoseconds = self.unwritten_nanoseconds
            self._write({"kind": "beat", "stage": self._stage, "nanoseconds": nanoseconds})

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Beats from another thread, often at first and every LONGEST_BEAT seconds later."""
        ended = threading.Event()
        started = self._clock()

        def beat_until_ended() -> None:
            while not ended.wait(beat_seconds((self._clock() - started) / NANOSECONDS)):
                # A disk that refuses a beat ends the run at the next entry, with a message.
                with suppress(OSError):
                    self.beat()

        thread = threading.Thread(target=beat_until_ended, name="ledger", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def close(self, reason: str, exit_code: int) -> None:
        """The last line: the process ended as it should; "done" or the reason it stopped."""
        if self._path is not None:
            self._write({"kind": "close", "reason": reason, "exit_code": exit_code}, is_synced=True)

    def _write(self, line: dict[str, Any], *, is_synced: bool = False) -> dict[str, Any]:
        assert self._path is not None, "the file is open"
        with self._lock:
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            whole = {"segment": self.segment, "seq": self._sequence, "utc": now} | line
            text = json.dumps(whole, ensure_ascii=False, allow_nan=False) + "\n"
            append_text(self._path, text, is_synced=is_synced)
            self._sequence += 1
        return whole


def beat_seconds(age: float) -> float:
    return min(LONGEST_BEAT, max(SHORTEST_BEAT, BEAT_SHARE * age))


def segment_number(path: Path) -> int:
    """The number in a file's name, 0 where there is none."""
    number = re.match(r"(\d+)-", path.name)
    return int(number[1]) if number else 0


# The span and the name of the time between a killed process's last line and its last beat.
UNRECORDED = "unrecorded"


@dataclass(frozen=True, slots=True)
class Entry:
    """One stretch of time of one process, which ended at `utc`, at one price; `step` 1-based, None
    for work that is none; time by span. None = unknown.
    """

    segment: str
    utc: str
    stage: str
    step: int | None
    what: str
    nanoseconds: dict[str, int]
    tokens: dict[str, int]
    counts: dict[str, int]
    gpu_millijoules: int | None
    details: dict[str, Any]
    price: Price | None

    @property
    def wall_nanoseconds(self) -> int:
        return sum(self.nanoseconds.values())

    @property
    def usd(self) -> Decimal | None:
        return None if self.price is None else self.price.usd(self.wall_nanoseconds)


def read_ledger(path: Path) -> list[Entry]:
    """All entries of a ledger's directory, oldest first; nothing there = no entries.
    CheckpointError for a damaged line that is not a file's last.
    """
    files = sorted(path.glob("*.jsonl"), key=segment_number)
    return [entry for file in files for entry in segment_entries(list(read_lines(file)))]


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The lines that were written to their end; the last may be torn, within a character too."""
    content = file.read_bytes()
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise CheckpointError(
                f"{file}:{number}: not a line of a ledger ({error}); restore the file, or remove "
                "that line and know that its cost is missing"
            ) from error


def segment_entries(lines: Sequence[dict[str, Any]]) -> Iterator[Entry]:
    """The entries of one process; where its last line is a beat, one up to that."""
    price: Price | None = None
    for line in lines:
        if line["kind"] == "price":
            price = Price.from_json(line["price"])
        elif line["kind"] == "time":
            yield make_entry(line, price)
    if lines and lines[-1]["kind"] == "beat":
        spans = {UNRECORDED: lines[-1]["nanoseconds"]}
        empty = {"step": None, "gpu_millijoules": None, "tokens": {}, "counts": {}, "details": {}}
        unrecorded = {**lines[-1], **empty, "what": UNRECORDED, "nanoseconds": spans}
        yield make_entry(unrecorded, price)


def last_sign_of_life(path: Path) -> str:
    """When (UTC) a process last wrote into the ledger's directory `path`; "" where none has."""
    files = sorted(path.glob("*.jsonl"), key=lambda file: file.stat().st_mtime_ns)
    lines = list(read_lines(files[-1])) if files else []
    return lines[-1]["utc"] if lines else ""


def make_entry(line: dict[str, Any], price: Price | None) -> Entry:
    values = {field.name: line[field.name] for field in fields(Entry) if field.name != "price"}
    return Entry(**values, price=price)


def lost_entries(entries: Sequence[Entry]) -> list[Entry]:
    """What was paid for and came to nothing: steps that a later process did again, because theirs
    died before its next checkpoint, and what a killed process had not written down.
    """
    last_segment = {
        (entry.stage, entry.step): entry.segment for entry in entries if entry.step is not None
    }
    return [
        entry
        for entry in entries
        if entry.what == UNRECORDED
        or (entry.step is not None and last_segment[entry.stage, entry.step] != entry.segment)
    ]


def run_cost(path: Path, stage: str | None = None) -> tuple[float, float | None]:
    """Seconds and USD of the whole ledger, or of one stage, lost time included; USD is None when
    there is no entry, or one whose price is unknown.
    """
    entries = [entry for entry in read_ledger(path) if stage is None or entry.stage == stage]
    nanoseconds = sum(entry.wall_nanoseconds for entry in entries)
    usd = known_sum(entry.usd for entry in entries)
    return nanoseconds / NANOSECONDS, None if usd is None else float(usd)
