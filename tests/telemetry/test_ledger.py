"""What the writer leaves on disk: one file per start, integers, decimal strings, beats."""

import json
import time
from decimal import Decimal

import pytest

from tests.telemetry.ledgers import SECOND, FakeClock, make_lap
from vibelite.telemetry.ledger import Ledger, Price, beat_seconds, segment_number
from vibelite.telemetry.meter import Lap


def append(ledger, seconds=1.0, step: int | None = 1, stage="sft"):
    ledger.append(make_lap(seconds), stage=stage, step=step, what="step")


def lines_of(directory):
    (file,) = directory.glob("*.jsonl")
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_file_begins_with_the_first_entry_and_says_on_what_and_at_what_price(tmp_path):
    price = Price(Decimal("2.1"), source="list")
    ledger = Ledger(tmp_path / "ledger", price, num_gpus=2)
    ledger.beat()
    assert not (tmp_path / "ledger").exists()
    lap = Lap({"idle": 0, "train": 5}, {"trained": 7}, {}, {"num_correct": 3}, 12_000)
    ledger.append(lap, stage="sft", step=3, what="step", note="x")
    ledger.close("done", 0)
    first, paid, spent, last = lines_of(tmp_path / "ledger")
    assert (first["kind"], first["number"], first["num_gpus"]) == ("open", 1, 2)
    assert (paid["kind"], paid["price"]) == ("price", {"usd_per_hour": "2.1", "source": "list"})
    assert (spent["stage"], spent["step"], spent["what"]) == ("sft", 3, "step")
    assert spent["nanoseconds"] == {"idle": 0, "train": 5}
    assert (spent["tokens"], spent["counts"]) == ({"trained": 7}, {"num_correct": 3})
    assert spent["gpu_millijoules"] == 12_000
    assert spent["details"] == {"note": "x"}
    assert (last["kind"], last["reason"], last["exit_code"]) == ("close", "done", 0)
    assert [line["seq"] for line in (first, paid, spent, last)] == [0, 1, 2, 3]
    assert {line["segment"] for line in (first, paid, spent, last)} == {ledger.segment}
    assert spent["utc"].endswith("+00:00")


def test_what_was_paid_for_is_on_the_disk_before_the_run_goes_on(tmp_path, disk_calls):
    ledger = Ledger(tmp_path, None)
    ledger.open()
    ledger.beat()
    assert disk_calls == [], "a beat may be lost: the next one says as much"
    (file,) = tmp_path.iterdir()
    append(ledger)
    assert disk_calls == [f"fsync {file.name}"]
    ledger.close("done", 0)
    assert disk_calls == [f"fsync {file.name}"] * 2


def test_every_start_of_the_run_has_a_file_of_its_own_and_a_higher_number(tmp_path):
    for _ in range(3):
        append(Ledger(tmp_path, None))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert [segment_number(tmp_path / name) for name in names] == [1, 2, 3]
    assert segment_number(tmp_path / "copy of 0001.jsonl") == 0


def test_a_beat_says_how_long_nothing_was_written_down(tmp_path):
    clock = FakeClock()
    ledger = Ledger(tmp_path, None, clock=clock)
    append(ledger)
    clock.now += 7 * SECOND
    ledger.beat()
    clock.now += 2 * SECOND
    ledger.beat()
    beats = [line for line in lines_of(tmp_path) if line["kind"] == "beat"]
    assert [beat["nanoseconds"] for beat in beats] == [7 * SECOND, 9 * SECOND]
    append(ledger)
    ledger.beat()
    assert lines_of(tmp_path)[-1]["nanoseconds"] == 0


def test_beats_come_from_another_thread_and_end_with_the_block(tmp_path):
    ledger = Ledger(tmp_path, None)
    append(ledger)
    with ledger.beating():
        time.sleep(0.3)
    lines = lines_of(tmp_path)
    beats = [line["nanoseconds"] for line in lines if line["kind"] == "beat"]
    assert len(beats) >= 2
    assert beats == sorted(beats)
    time.sleep(0.1)
    assert lines_of(tmp_path) == lines


@pytest.mark.parametrize(("age", "seconds"), [(0, 0.05), (20, 0.1), (1000, 5), (10**6, 10)])
def test_beats_are_half_a_percent_of_a_process_s_age_apart(age, seconds):
    assert beat_seconds(age) == pytest.approx(seconds)
