"""When a run must stop, for money, hours or a signal, and what it keeps back for a checkpoint."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from tests.telemetry.ledgers import SECOND, FakeClock
from vibelite.errors import BudgetReached, Interrupted, RecipeError
from vibelite.recipe.run_section import Budget, Cost
from vibelite.telemetry.ledger import read_ledger, run_cost
from vibelite.telemetry.meter import Lap, Meter
from vibelite.telemetry.spending import Spending
from vibelite.telemetry.stop import StopRules, percentile_95

A_DOLLAR_A_SECOND = Cost(usd_per_hour=3600.0)


def record(stop, seconds, checkpoint=0.0, *, step: int | None = None):
    nanoseconds = {"train": round(seconds * SECOND), "checkpoint": round(checkpoint * SECOND)}
    return stop.spending.record(Lap(nanoseconds, {}, {}), stage="sft", step=step)


def make_stop(tmp_path, cost=A_DOLLAR_A_SECOND, **limits):
    return StopRules(Budget(**limits), Spending(cost, tmp_path / "ledger"))


def test_the_next_step_and_its_checkpoint_must_fit(tmp_path):
    stop = make_stop(tmp_path, usd=100.0)
    record(stop, 0, checkpoint=5)
    for _ in range(7):
        record(stop, 10, step=1)
        assert stop.reason_to_stop() is None  # up to 75 + 10 + 5, and 1 for the report
    record(stop, 9.5)
    reason = stop.reason_to_stop()
    assert isinstance(reason, BudgetReached) and reason.exit_code == 10
    assert "$100" in str(reason) and "$84.5" in str(reason)


def test_hours_of_earlier_processes_count(tmp_path):
    record(make_stop(tmp_path), 3000, step=1)
    stop = make_stop(tmp_path, hours=0.8)
    assert "the budget of 0.8 hours ends here: 0.833 are spent" in str(stop.reason_to_stop())


def test_the_first_checkpoint_is_taken_to_be_as_slow_as_loading(tmp_path):
    stop = make_stop(tmp_path, usd=100.0)
    stop.spending.record(Lap({"load": 30 * SECOND}, {}, {}), stage="sft", what="load")
    record(stop, 20, step=1)
    assert "next step with its checkpoint may cost $51.0000" in str(stop.reason_to_stop())
    record(stop, 1, checkpoint=2)
    assert stop.reason_to_stop() is None  # 53 + 20 + 2 + 1


def test_the_report_is_taken_to_be_as_slow_as_the_slowest_before(tmp_path):
    stop, clock = make_stop(tmp_path), FakeClock()
    meter = Meter(clock)
    with stop.spending.paying(meter):
        record(stop, 10, step=1)
        clock.now += 7 * SECOND
    stop = make_stop(tmp_path, usd=23.0)
    with pytest.raises(BudgetReached):  # 17 + 7
        stop.check()


def test_hours_are_a_limit_without_a_price(tmp_path):
    stop = make_stop(tmp_path, Cost(), hours=1.0)
    record(stop, 1700, step=1)
    assert stop.reason_to_stop() is None
    record(stop, 1700, step=1)
    assert isinstance(stop.reason_to_stop(), BudgetReached)


def test_without_limits_nothing_stops(tmp_path):
    stop = make_stop(tmp_path)
    record(stop, 10**6, step=1)
    assert stop.reason_to_stop() is None
    stop.check()
    stop.check_deadline()


def test_what_is_spent_counts_over_restarts(tmp_path):
    record(make_stop(tmp_path), 99, step=1)
    stop = make_stop(tmp_path, usd=101.0)
    stop.check()
    record(stop, 0.5)
    stop.check()  # 99.5, the next piece may cost as much as this one, and the report a second
    record(stop, 0.1)
    with pytest.raises(BudgetReached):
        stop.check()
    assert len(list((tmp_path / "ledger").iterdir())) == 2


def test_a_limit_on_what_is_unknown_is_an_error_and_never_ignored(tmp_path):
    with pytest.raises(RecipeError, match="budget.usd: what this run has spent is unknown"):
        make_stop(tmp_path / "no price", Cost(), usd=5.0)
    record(make_stop(tmp_path, Cost()), 1)
    with pytest.raises(RecipeError, match="begin a new run"):
        make_stop(tmp_path, usd=5.0)


def test_starting_happens_once_and_says_nothing_of_the_next_work(tmp_path):
    stop = make_stop(tmp_path, usd=100.0)
    stop.spending.record(Lap({"boot": 60 * SECOND}, {}, {}), stage="base", what="boot")
    stop.check()  # 60, and 1 for the report
    stop.spending.record(Lap({"eval": 20 * SECOND}, {}, {}), stage="evaluate", what="evaluate")
    with pytest.raises(BudgetReached):  # 80 + 20 + 1
        stop.check()


def test_the_ledger_is_closed_with_what_is_left_and_why(tmp_path):
    clock = FakeClock()
    meter = Meter(clock)
    stop = make_stop(tmp_path)
    with pytest.raises(BudgetReached), stop.spending.paying(meter):
        record(stop, 5)
        clock.now += 2 * SECOND
        raise BudgetReached("enough")
    assert [entry.what for entry in read_ledger(tmp_path / "ledger")] == ["step", "report"]
    assert run_cost(tmp_path / "ledger") == (7.0, 7)
    (file,) = (tmp_path / "ledger").iterdir()
    last = json.loads(file.read_text().splitlines()[-1])
    assert (last["kind"], last["reason"], last["exit_code"]) == ("close", "BudgetReached", 10)


def test_what_a_process_lived_before_its_first_entry_is_known_even_if_it_is_killed(tmp_path):
    clock = FakeClock()
    meter = Meter(clock, boot_nanoseconds=3 * SECOND)
    clock.now += 2 * SECOND
    (tmp_path / "killed").mkdir()
    with make_stop(tmp_path).spending.paying(meter):
        (file,) = (tmp_path / "ledger").iterdir()
        shutil.copy(file, tmp_path / "killed")  # what a SIGKILL would leave here
    (lost,) = read_ledger(tmp_path / "killed")
    assert (lost.stage, lost.what) == ("base", "unrecorded")
    assert lost.usd is not None and 5 <= lost.usd < 15  # the ledger has a clock of its own
    (whole,) = read_ledger(tmp_path / "ledger")
    assert (whole.what, whole.usd) == ("report", 5)


def test_a_long_rollout_meets_the_deadline(tmp_path):
    stop = make_stop(tmp_path, usd=10.0)
    record(stop, 6, checkpoint=3.9, step=1)
    with pytest.raises(BudgetReached):  # 9.9 spent, 3.9 kept for the checkpoint
        stop.check_deadline()


def test_steps_of_the_stage_before_do_not_count(tmp_path):
    stop = make_stop(tmp_path, usd=100.0)
    record(stop, 60, step=1)
    assert stop.reason_to_stop() is not None
    stop.new_stage("mgpo")
    assert stop.reason_to_stop() is None


def test_a_stage_that_goes_on_must_afford_loading_and_a_step_of_before(tmp_path):
    stop = make_stop(tmp_path)
    stop.spending.record(Lap({"load": 5 * SECOND}, {}, {}), stage="sft", what="load")
    record(stop, 20, checkpoint=3, step=1)
    for limit, is_enough in ((56.9, False), (57.1, True)):  # 28 + 5 + 20 + 3 + 1
        stop = make_stop(tmp_path, usd=limit)
        stop.new_stage("sft")
        if is_enough:
            stop.check()
        else:
            with pytest.raises(BudgetReached):
                stop.check()


def test_percentile_is_the_largest_of_few():
    assert percentile_95([]) == 0.0
    assert percentile_95([3.0, 1.0, 2.0]) == 3.0
    assert percentile_95([float(value) for value in range(1, 101)]) == 95.0


def test_the_first_signal_waits_for_a_safe_place(tmp_path):
    stop, before = make_stop(tmp_path), signal.getsignal(signal.SIGTERM)
    with stop.listen():
        os.kill(os.getpid(), signal.SIGTERM)
        reason = stop.reason_to_stop()
        assert isinstance(reason, Interrupted) and reason.exit_code == 75
        assert "SIGTERM" in str(reason)
        with pytest.raises(Interrupted):
            stop.check()
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_second_signal_ends_the_process_at_once():
    program = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from vibelite.recipe.run_section import Budget, Cost\n"
        "from vibelite.telemetry.spending import Spending\n"
        "from vibelite.telemetry.stop import StopRules\n"
        "with StopRules(Budget(), Spending(Cost(), Path('none'))).listen():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('still here', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('not here', flush=True)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 75
    assert result.stdout == "still here\n"
    assert result.stderr == "\nstopping at the next safe place; once more stops at once\n"
