"""The ledger after interruptions: torn lines, redone steps, money that is exact or unknown."""

import json
from decimal import Decimal

import pytest

from vibelite.telemetry.ledger import Ledger, price_of, read_ledger, run_cost, stage_cost
from vibelite.telemetry.meter import Lap

HOUR = 3600 * 10**9


def lap(nanoseconds, **tokens):
    return Lap({"idle": 0, "train": nanoseconds}, tokens, {})


def append(ledger, nanoseconds, stage="sft", step=1):
    return ledger.append(lap(nanoseconds), stage=stage, step=step, what="step", details={})


def test_a_line_holds_integers_and_decimal_strings(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl", usd_per_hour=2.1)
    usd = ledger.append(
        lap(HOUR // 4, trained=7), stage="sft", step=3, what="step", details={"note": "x"}
    )
    assert usd == Decimal("0.525")
    line = json.loads((tmp_path / "ledger.jsonl").read_text())
    assert line["nanoseconds"] == {"idle": 0, "train": 900_000_000_000}
    assert line["tokens"] == {"trained": 7}
    assert (line["stage"], line["step"], line["what"]) == ("sft", 3, "step")
    assert (line["usd"], line["usd_per_hour"], line["currency"]) == ("0.525000000", "2.1", "USD")
    assert line["details"] == {"note": "x"}
    assert line["utc"].endswith("+00:00")


def test_prices_of_many_short_steps_add_up_to_the_price_of_the_whole():
    price = Decimal("2.99")
    parts = [price_of(HOUR // 1000, price) for _ in range(1000)]
    assert sum(part for part in parts if part is not None) == Decimal("2.99")


def test_without_a_price_there_is_time_and_no_money(tmp_path):
    path = tmp_path / "ledger.jsonl"
    assert append(Ledger(path, usd_per_hour=None), HOUR) is None
    assert stage_cost(path, "sft") == (3600.0, None)


def test_a_sum_with_an_unpriced_part_is_unknown(tmp_path):
    path = tmp_path / "ledger.jsonl"
    append(Ledger(path, usd_per_hour=1.0), HOUR)
    append(Ledger(path, usd_per_hour=None), HOUR)
    append(Ledger(path, usd_per_hour=1.0), HOUR)
    assert stage_cost(path, "sft") == (3 * 3600.0, None)


def test_each_line_keeps_the_price_it_was_paid_at(tmp_path):
    path = tmp_path / "ledger.jsonl"
    append(Ledger(path, usd_per_hour=1.0), HOUR)
    append(Ledger(path, usd_per_hour=2.5), HOUR)
    assert run_cost(path) == (2 * 3600.0, Decimal("3.5"))


def test_redone_steps_stay_and_other_stages_do_not_count(tmp_path):
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path, usd_per_hour=1.0)
    for stage, step in [("sft", 1), ("sft", 2), ("sft", 2), ("mgpo", 1)]:
        append(ledger, HOUR, stage, step)
    assert stage_cost(path, "sft") == (3 * 3600.0, 3.0)
    assert stage_cost(path, "probe") == (0.0, None)
    assert run_cost(path) == (4 * 3600.0, Decimal(4))


@pytest.mark.parametrize("torn", ['{"utc": "2026', '{"stage": "sft"}', "é".encode()[:1]])
def test_a_torn_last_line_is_neither_read_nor_glued_to_the_next(tmp_path, torn):
    path = tmp_path / "ledger.jsonl"
    append(Ledger(path, usd_per_hour=1.0), HOUR)
    with open(path, "ab") as file:
        file.write(torn if isinstance(torn, bytes) else torn.encode())
    append(Ledger(path, usd_per_hour=1.0), 2 * HOUR)
    assert [sum(line["nanoseconds"].values()) for line in read_ledger(path)] == [HOUR, 2 * HOUR]


def test_a_line_torn_by_a_process_that_still_writes_is_left_out(tmp_path):
    path = tmp_path / "ledger.jsonl"
    append(Ledger(path, usd_per_hour=1.0), HOUR)
    with open(path, "ab") as file:
        file.write(b'{"utc": "2026-01')
    assert stage_cost(path, "sft") == (3600.0, 1.0)


def test_a_missing_ledger_costs_nothing_known(tmp_path):
    assert run_cost(tmp_path / "ledger.jsonl") == (0.0, None)
