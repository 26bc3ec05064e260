"""Sums over ledger entries: spans, money, energy, what was lost."""

from dataclasses import replace
from decimal import Decimal

from tests.telemetry.ledgers import make_entry
from vibelite.report.cost import add_up, stage_costs
from vibelite.telemetry.ledger import UNRECORDED


def test_a_stage_adds_up_its_spans_tokens_and_money():
    ledger = [
        make_entry(rollout=3, idle=1),
        make_entry(rollout=2, train=4),
        make_entry(stage="sft", train=9),
    ]
    mgpo, sft = stage_costs(ledger)
    assert (mgpo.name, mgpo.seconds, mgpo.usd) == ("mgpo", 10.0, Decimal(10))
    assert mgpo.seconds_by_span == {"rollout": 5.0, "idle": 1.0, "train": 4.0}
    assert mgpo.tokens["generated"] == 2000
    assert mgpo.units == {"1M generated": 5000}
    assert mgpo.prices == ["3600 USD per hour (no source)"]
    assert (sft.name, sft.seconds) == ("sft", 9.0)


def test_spans_are_listed_in_a_fixed_order_with_idle_last():
    cost = add_up("x", [make_entry(idle=1, fuse=2, train=3, rollout=4)])
    assert [span for span, _, _ in cost.spans] == ["rollout", "train", "fuse", "idle"]


def test_an_unpriced_entry_makes_the_sum_unknown():
    ledger = [make_entry(train=1), make_entry(train=1, price=None)]
    cost = add_up("x", ledger)
    assert cost.usd is None
    assert cost.units == {}


def test_what_was_lost_is_told_by_stage_and_in_all():
    ledger = [
        make_entry(step=step, segment=segment, train=seconds)
        for segment, step, seconds in [("a", 1, 1), ("a", 2, 2), ("b", 2, 3), ("b", 3, 4)]
    ]
    ledger.append(make_entry(stage="sft", step=1, segment="b", train=50))
    mgpo, sft = stage_costs(ledger)
    assert (mgpo.lost_seconds, mgpo.lost_usd) == (2.0, Decimal(2))
    assert (sft.lost_seconds, sft.lost_usd) == (0.0, None)
    ledger.append(make_entry(step=2, segment="c", train=8))
    assert add_up("all", ledger).lost_seconds == 5.0


def test_what_is_not_written_down_is_lost_once_another_process_goes_on():
    ledger = [make_entry(step=1, segment="a", train=1)]
    ledger.append(replace(make_entry(segment="a", unrecorded=7), what=UNRECORDED))
    assert add_up("all", ledger).lost_seconds == 0.0
    ledger.append(make_entry(step=2, segment="b", train=1))
    assert add_up("all", ledger).lost_seconds == 7.0


def test_energy_is_known_only_where_all_of_it_is():
    kwh = 3_600_000_000
    entries = [replace(make_entry(train=1), gpu_millijoules=energy) for energy in (kwh, 2 * kwh)]
    assert add_up("x", entries).kwh == 3.0
    assert add_up("x", [*entries, make_entry(train=1)]).kwh is None
