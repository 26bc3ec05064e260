"""When a run must stop, for money, hours or a signal, and what it keeps back for a checkpoint."""

import os
import signal
import subprocess
import sys

import pytest

from vibelite.errors import BudgetReached, Interrupted
from vibelite.recipe.run_section import Budget, Cost
from vibelite.telemetry.guard import RunGuard, percentile_95
from vibelite.telemetry.meter import Lap

SECOND = 10**9


def lap(seconds, checkpoint=0.0):
    nanoseconds = {"train": round(seconds * SECOND), "checkpoint": round(checkpoint * SECOND)}
    return Lap(nanoseconds, {}, {})


def make_guard(tmp_path, usd=None, hours=None, usd_per_hour: float | None = 3600.0):
    """At that price a second costs a dollar."""
    cost = Cost(usd_per_hour=usd_per_hour)
    return RunGuard(Budget(usd=usd, hours=hours), cost, tmp_path / "ledger.jsonl")


def test_the_next_step_and_its_checkpoint_must_fit(tmp_path):
    guard = make_guard(tmp_path, usd=100.0)
    guard.record(lap(0, checkpoint=5), is_step=False)
    for _ in range(8):
        guard.record(lap(10), is_step=True)
        assert guard.reason_to_stop() is None  # up to 85 + 10 + 5
    guard.record(lap(0.5), is_step=False)
    reason = guard.reason_to_stop()
    assert isinstance(reason, BudgetReached) and reason.exit_code == 10
    assert "$100" in str(reason) and "$85.5" in str(reason)


def test_hours_are_a_limit_without_a_price(tmp_path):
    guard = make_guard(tmp_path, hours=1.0, usd_per_hour=None)
    guard.record(lap(1700), is_step=True)
    assert guard.reason_to_stop() is None
    guard.record(lap(1700), is_step=True)
    assert isinstance(guard.reason_to_stop(), BudgetReached)


def test_without_limits_nothing_stops(tmp_path):
    guard = make_guard(tmp_path)
    guard.record(lap(10**6), is_step=True)
    assert guard.reason_to_stop() is None
    guard.check()
    guard.check_deadline()


def test_what_is_spent_counts_over_restarts(tmp_path):
    (tmp_path / "ledger.jsonl").write_text(
        '{"stage": "sft", "nanoseconds": {"train": 99000000000}, "usd": "99", "step": 1}\n'
    )
    guard = make_guard(tmp_path, usd=100.0)
    guard.check()
    guard.record(lap(0.5), is_step=False)
    guard.check()  # 99.5, and the next piece may cost as much as this one
    guard.record(lap(0.1), is_step=False)
    with pytest.raises(BudgetReached):
        guard.check()


def test_a_long_rollout_meets_the_deadline(tmp_path):
    guard = make_guard(tmp_path, usd=10.0)
    guard.record(lap(6, checkpoint=3.9), is_step=True)
    with pytest.raises(BudgetReached):  # 9.9 spent, 3.9 kept for the checkpoint
        guard.check_deadline()


def test_steps_of_the_stage_before_do_not_count(tmp_path):
    guard = make_guard(tmp_path, usd=100.0)
    guard.record(lap(60), is_step=True)
    assert guard.reason_to_stop() is not None
    guard.new_stage()
    assert guard.reason_to_stop() is None


def test_percentile_is_the_largest_of_few():
    assert percentile_95([]) == 0.0
    assert percentile_95([3.0, 1.0, 2.0]) == 3.0
    assert percentile_95([float(value) for value in range(1, 101)]) == 95.0


def test_the_first_signal_waits_for_a_safe_place(tmp_path):
    guard = make_guard(tmp_path)
    with guard.listen():
        os.kill(os.getpid(), signal.SIGTERM)
        reason = guard.reason_to_stop()
        assert isinstance(reason, Interrupted) and reason.exit_code == 75
        assert "SIGTERM" in str(reason)
        with pytest.raises(Interrupted):
            guard.check()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_the_second_signal_ends_the_process_at_once():
    program = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from vibelite.recipe.run_section import Budget, Cost\n"
        "from vibelite.telemetry.guard import RunGuard\n"
        "with RunGuard(Budget(), Cost(), Path('none')).listen():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('still here', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('not here', flush=True)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 75
    assert result.stdout == "still here\n"
    assert result.stderr == "\nstopping at the next safe place; once more stops at once\n"
