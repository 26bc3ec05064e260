"""The ledger's reader: what was paid for, in the order in which it happened, whatever became of the
files: copied twice, joined, cut off in their last line, or listed in any order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from vibelite.errors import CheckpointError
from vibelite.telemetry.price import Price, known_sum
from vibelite.units import NANOSECONDS

# The span and the name of the time between a killed process's last line and its last beat.
UNRECORDED = "unrecorded"


@dataclass(frozen=True, slots=True)
class Entry:
    """One stretch of time of one process, at one price."""

    segment: str
    sequence: int
    ended: datetime
    stage: str
    step: int | None
    """1-based; None for work that is no step."""
    what: str
    nanoseconds: dict[str, int]
    """By span; the sum is wall time."""
    tokens: dict[str, int]
    counts: dict[str, int]
    millijoules: int | None
    """Of the GPUs; None = unknown."""
    price: Price | None
    details: dict[str, Any]

    @property
    def wall_nanoseconds(self) -> int:
        return sum(self.nanoseconds.values())

    @property
    def usd(self) -> Decimal | None:
        """What it cost; None = unknown."""
        return None if self.price is None else self.price.usd(self.wall_nanoseconds)


def read_ledger(path: Path) -> list[Entry]:
    """All entries, oldest first. `path`: a ledger's directory, or one file with lines of any
    number of segments. Nothing there = no entries.

    A line counts once however often it is found. Segments stand in the order of their numbers, and
    of their first lines' clocks where two machines began with the same number. Raises
    CheckpointError for a damaged line that is not a file's last, and for two different lines of the
    same place.
    """
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path] if path.exists() else []
    segments: dict[str, dict[int, dict[str, Any]]] = {}
    for file in files:
        for line in read_lines(file):
            known = segments.setdefault(line["segment"], {})
            if known.setdefault(line["seq"], line) != line:
                raise CheckpointError(
                    f"{file}: line {line['seq']} of segment {line['segment']} differs from that "
                    "of another file; remove the file that was changed"
                )
    ordered = sorted(segments.values(), key=segment_order)
    return [entry for lines in ordered for entry in segment_entries(lines)]


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


def segment_order(lines: Mapping[int, Mapping[str, Any]]) -> tuple[int, str, str]:
    first = lines[min(lines)]
    return first.get("number", 0), first["utc"], first["segment"]


def segment_entries(lines: Mapping[int, dict[str, Any]]) -> Iterator[Entry]:
    """The entries of one process."""
    price: Price | None = None
    last_beat: dict[str, Any] | None = None
    for sequence in sorted(lines):
        line = lines[sequence]
        match line["kind"]:
            case "price":
                price = Price.from_json(line["price"])
            case "time":
                last_beat = None
                yield make_entry(line, price)
            case "beat":
                last_beat = line
            case "close":
                last_beat = None
    if last_beat is not None:
        yield make_entry(unrecorded_time(last_beat), price)


def unrecorded_time(beat: Mapping[str, Any]) -> dict[str, Any]:
    """A line of time for what a process did between its last line and `beat`, its last one."""
    names = {name: beat[name] for name in ("segment", "seq", "utc", "stage")}
    spans = {UNRECORDED: beat["nanoseconds"]}
    empty = {"step": None, "gpu_millijoules": None, "tokens": {}, "counts": {}, "details": {}}
    return {**names, **empty, "what": UNRECORDED, "nanoseconds": spans}


def make_entry(line: Mapping[str, Any], price: Price | None) -> Entry:
    """The entry of a line of time."""
    return Entry(
        segment=line["segment"],
        sequence=line["seq"],
        ended=datetime.fromisoformat(line["utc"]),
        stage=line["stage"],
        step=line["step"],
        what=line["what"],
        nanoseconds=line["nanoseconds"],
        tokens=line["tokens"],
        counts=line["counts"],
        millijoules=line["gpu_millijoules"],
        price=price,
        details=line["details"],
    )


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


def run_cost(path: Path, stage: str | None = None) -> tuple[float, Decimal | None]:
    """Seconds and USD of the whole ledger, or of one stage, lost time included.

    USD is None when there is no entry, or one whose price is unknown.
    """
    entries = [entry for entry in read_ledger(path) if stage is None or entry.stage == stage]
    nanoseconds = sum(entry.wall_nanoseconds for entry in entries)
    return nanoseconds / NANOSECONDS, known_sum(entry.usd for entry in entries)


def stage_cost(path: Path, stage: str) -> tuple[float, float | None]:
    """Seconds and USD of one stage; see `run_cost`."""
    seconds, usd = run_cost(path, stage)
    return seconds, None if usd is None else float(usd)
