"""Sums over ledger lines: spans, money, redone steps."""

from decimal import Decimal

import pytest

from vibelite.report.cost import add_up, cumulative_usd, stage_costs


def line(
    stage="mgpo", step=None, usd: str | None = "1.5", utc="2026-01-01T00:00:10+00:00", **seconds
):
    return {
        "stage": stage,
        "step": step,
        "usd": usd,
        "utc": utc,
        "nanoseconds": {span: round(value * 1e9) for span, value in seconds.items()},
        "tokens": {"generated": 1000, "trained": 0},
    }


def test_a_stage_adds_up_its_spans_tokens_and_money():
    ledger = [line(rollout=3, idle=1), line(rollout=2, train=4), line(stage="sft", train=9)]
    mgpo, sft = stage_costs(ledger)
    assert (mgpo.name, mgpo.seconds, mgpo.usd) == ("mgpo", 10.0, Decimal("3.0"))
    assert mgpo.seconds_by_span == {"rollout": 5.0, "idle": 1.0, "train": 4.0}
    assert mgpo.tokens["generated"] == 2000
    assert mgpo.usd_per_million("generated") == 1500
    assert mgpo.usd_per_million("trained") is None
    assert (sft.name, sft.seconds) == ("sft", 9.0)


def test_spans_are_listed_in_a_fixed_order_with_idle_last():
    cost = add_up("x", [line(idle=1, fuse=2, train=3, rollout=4)])
    assert [span for span, _, _ in cost.spans] == ["rollout", "train", "fuse", "idle"]


def test_an_unpriced_line_makes_the_sum_unknown():
    cost = add_up("x", [line(train=1), line(train=1, usd=None)])
    assert cost.usd is None
    assert cost.usd_per_million("generated") is None
    assert cumulative_usd([line(train=1), line(train=1, usd=None)]) == []


def test_redone_steps_are_all_but_the_last_of_each():
    ledger = [line(step=step, train=seconds) for step, seconds in [(1, 1), (2, 2), (2, 3), (3, 4)]]
    ledger.append(line(stage="sft", step=1, train=50))
    assert add_up("all", ledger).redone_seconds == 2.0
    ledger += [line(step=2, train=8)]
    assert add_up("all", ledger).redone_seconds == 5.0


def test_money_is_flat_while_nothing_runs():
    ledger = [
        line(train=10, utc="2026-01-01T00:00:10+00:00"),
        line(train=10, utc="2026-01-01T01:00:10+00:00"),
    ]
    assert cumulative_usd(ledger) == [(0.0, 0.0), (10.0, 1.5), (3610.0, 3.0)]


@pytest.mark.parametrize("ledger", [[], ()])
def test_an_empty_ledger_costs_nothing_known(ledger):
    cost = add_up("all", ledger)
    assert (cost.seconds, cost.usd, cost.spans) == (0.0, None, [])
    assert cumulative_usd(ledger) == []
