"""Reading ledgers after everything that can happen to them, and sums that are exact or unknown.

The property tests draw whole histories of a run under a fake clock: any number of processes, each
ended or killed at any moment, each at its price, steps done again, last lines torn.
"""

import json
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.telemetry.ledgers import SECOND, FakeClock, make_entry, make_lap
from vibelite.errors import CheckpointError
from vibelite.telemetry.ledger import (
    UNRECORDED,
    USD_QUANTUM,
    Ledger,
    Price,
    known_sum,
    lost_entries,
    read_ledger,
    run_cost,
)
from vibelite.telemetry.meter import Lap

DOLLAR_PER_SECOND = Price(Decimal(3600))
PRICES = [None, DOLLAR_PER_SECOND, Price(Decimal("2.69")), Price(Decimal("0.1"))]


def append(ledger, seconds, stage="sft", step: int | None = 1):
    ledger.append(make_lap(seconds), stage=stage, step=step, what="step")


def test_money_is_time_times_the_price_at_that_time(tmp_path):
    append(Ledger(tmp_path, Price(Decimal(1))), 3600)
    append(Ledger(tmp_path, Price(Decimal("2.5"))), 7200)
    assert run_cost(tmp_path) == (10800.0, 6.0)
    append(Ledger(tmp_path, Price(Decimal(4))), 1800)
    assert run_cost(tmp_path) == (12600.0, 8.0)


def test_a_sum_with_an_unpriced_part_is_unknown(tmp_path):
    append(Ledger(tmp_path, Price(Decimal(1))), 3600)
    append(Ledger(tmp_path, None), 3600)
    assert run_cost(tmp_path, "sft") == (7200.0, None)
    assert run_cost(tmp_path, "probe") == (0.0, None)


def test_steps_done_again_by_a_later_process_stay_and_are_lost(tmp_path):
    for steps in [(1, 2, 3), (2, 3), (3, 4)]:
        ledger = Ledger(tmp_path, DOLLAR_PER_SECOND)
        for step in steps:
            append(ledger, 10 * step, step=step)
    append(ledger, 1, stage="mgpo", step=2)
    entries = read_ledger(tmp_path)
    assert [entry.step for entry in lost_entries(entries)] == [2, 3, 3]
    assert sum(entry.usd or 0 for entry in lost_entries(entries)) == 80
    assert run_cost(tmp_path, "sft")[1] == 180


def test_two_entries_of_one_step_in_one_process_are_parts_of_it():
    entries = [make_entry(step=1, segment="a", train=1), make_entry(step=1, segment="a", train=2)]
    assert lost_entries(entries) == []


def test_a_killed_process_is_known_until_its_last_beat(tmp_path):
    clock = FakeClock()
    ledger = Ledger(tmp_path, DOLLAR_PER_SECOND, clock=clock)
    append(ledger, 10, stage="mgpo")
    clock.now += 4 * SECOND
    ledger.beat()
    clock.now += 1 * SECOND
    ledger.beat()
    first, unrecorded = read_ledger(tmp_path)
    assert (unrecorded.what, unrecorded.stage, unrecorded.step) == (UNRECORDED, "mgpo", None)
    assert unrecorded.nanoseconds == {UNRECORDED: 5 * SECOND}
    assert unrecorded.usd == 5
    assert lost_entries([first, unrecorded]) == [unrecorded]
    ledger.close("done", 0)
    assert read_ledger(tmp_path) == [first]


def test_a_damaged_line_elsewhere_is_an_error_that_names_it(tmp_path):
    append(Ledger(tmp_path, None), 5)
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"\0\0\0\n" + file.read_bytes())
    with pytest.raises(CheckpointError, match=rf"{file.name}:1: not a line of a ledger"):
        read_ledger(tmp_path)


def test_nothing_there_costs_nothing_known(tmp_path):
    assert read_ledger(tmp_path / "ledger") == []
    assert run_cost(tmp_path / "ledger") == (0.0, None)


@dataclass
class History:
    """What really happened, kept beside the ledger by simpler means."""

    nanoseconds: int = 0
    unrecorded: int = 0
    usd: Decimal | None = Decimal(0)
    order: list[int] = field(default_factory=list)
    """Wall time of every entry in the order in which it happened."""
    by_step: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    """step -> (process, wall time) of every time it was done."""

    def spend(self, nanoseconds: int, price: Price | None) -> None:
        self.nanoseconds += nanoseconds
        self.order.append(nanoseconds)
        if price is None:
            self.usd = None
            return
        if self.usd is not None:
            self.usd += price.usd_per_hour * nanoseconds / 3600 / SECOND

    @property
    def lost(self) -> int:
        redone = 0
        for times in self.by_step.values():
            last = times[-1][0]
            redone += sum(wall for process, wall in times if process != last)
        return redone + self.unrecorded


durations = st.integers(1, 10**14)
# What a process does: a step, other work, or nothing but living for a while.
actions = st.one_of(
    st.tuples(st.just("step"), durations),
    st.tuples(st.just("work"), durations),
    st.tuples(st.just("beat"), durations),
)
# Its price, what it does, whether it is killed, and how many steps the next one goes back.
processes = st.tuples(
    st.sampled_from(PRICES), st.lists(actions, max_size=12), st.booleans(), st.integers(0, 4)
)


def play(directory: Path, drawn) -> History:
    """Writes the ledger of the drawn processes; what they really took."""
    history, step = History(), 0
    for number, (price, todo, is_killed, num_redone) in enumerate(drawn):
        clock = FakeClock()
        ledger = Ledger(directory, price, clock=clock)
        unwritten = 0
        for kind, value in todo:
            clock.now += value
            unwritten += value
            if kind == "beat":
                ledger.beat()
                continue
            step += kind == "step"
            wall, unwritten = unwritten, 0
            number_of_step = step if kind == "step" else None
            ledger.append(lap_of(wall), stage="mgpo", step=number_of_step, what=kind)
            history.spend(wall, price)
            if kind == "step":
                history.by_step.setdefault(step, []).append((number, wall))
        if is_killed:
            ledger.beat()
            if (
                list(directory.glob(f"*-{ledger.segment}.jsonl"))
                and last_kind(directory, ledger) == "beat"
            ):
                history.spend(unwritten, price)
                history.unrecorded += unwritten
        else:
            ledger.close("done", 0)
        step = max(0, step - num_redone)
    return history


def lap_of(nanoseconds: int) -> Lap:
    first = nanoseconds // 3
    return Lap({"rollout": first, "idle": nanoseconds - first}, {}, {})


def last_kind(directory: Path, ledger: Ledger) -> str:
    (file,) = directory.glob(f"*-{ledger.segment}.jsonl")
    return json.loads(file.read_bytes().splitlines()[-1])["kind"]


torn_tails = st.sampled_from([b"", b"{", b'{"segment": "x", "seq": 3', b"\xc3", b"{}"])


@given(st.lists(processes, max_size=5), st.data())
@settings(max_examples=40, deadline=None)
def test_every_history_is_read_as_it_was(drawn, data):
    with TemporaryDirectory() as name:
        directory = Path(name)
        history = play(directory, drawn)
        for file in directory.glob("*.jsonl"):
            file.write_bytes(file.read_bytes() + data.draw(torn_tails))
        entries = read_ledger(directory)
        assert [entry.wall_nanoseconds for entry in entries] == history.order
        assert sum(entry.wall_nanoseconds for entry in lost_entries(entries)) == history.lost
        tolerance = USD_QUANTUM * max(1, len(entries))
        usd = known_sum(entry.usd for entry in entries)
        assert run_cost(directory)[0] == pytest.approx(history.nanoseconds / SECOND)
        if not entries or history.usd is None:
            assert usd is None
        else:
            assert usd is not None and abs(usd - history.usd) <= tolerance
