"""Young's and Daly's interval against numbers and against the cost that it minimises."""

import math

import pytest

from vibelite.recipe.run_section import Checkpoint
from vibelite.training import checkpoint_interval
from vibelite.training.checkpoint_interval import SaveSchedule, best_interval


def expected_overhead(interval, save, mtbf):
    """Daly 2006, eq. 20: wall time per second of work when failures are exponential, without the
    factor of the restart, which does not depend on the interval.
    """
    return mtbf * (math.exp((interval + save) / mtbf) - 1) / interval


@pytest.mark.parametrize(("save", "mtbf"), [(1, 100_000), (30, 86_400), (300, 3600), (600, 1800)])
def test_no_other_interval_costs_noticeably_less(save, mtbf):
    chosen = expected_overhead(best_interval(save, mtbf), save, mtbf)
    for factor in (0.5, 0.7, 0.9, 1.1, 1.4, 2):
        other = expected_overhead(factor * best_interval(save, mtbf), save, mtbf)
        assert chosen <= other * 1.0005


def test_the_interval_by_hand():
    # sqrt(2 * 2 * 100) = 20; ratio 0.01: 20 (1 + 0.1 / 3 + 0.01 / 9) - 2 = 18.6889
    assert best_interval(2, 100) == pytest.approx(18.688888889)
    assert best_interval(0, 100) == 0
    assert best_interval(200, 100) == best_interval(500, 100) == 100


def test_short_saves_are_youngs_formula():
    assert best_interval(1e-3, 1e6) == pytest.approx(math.sqrt(2 * 1e-3 * 1e6), rel=1e-3)


def test_by_steps_counts_and_the_last_step_is_always_saved():
    schedule = SaveSchedule(Checkpoint(), every=4, num_steps=10)
    assert [step for step in range(1, 11) if schedule.is_due(step)] == [4, 8, 10]


def test_by_time_measures_with_the_first_step_and_then_waits_the_interval(monkeypatch):
    monkeypatch.setattr(checkpoint_interval, "SECONDS_BETWEEN_FAILURES", 100)
    now = [0.0]
    schedule = SaveSchedule(Checkpoint(by="time"), every=1, num_steps=1000, clock=lambda: now[0])
    saves = []
    for step in range(1, 1000):
        now[0] += 1
        if schedule.is_due(step):
            now[0] += 2
            schedule.saved(2.0)
            saves.append(step)
    # 18.69 seconds of training, in whole steps of one second.
    assert saves[:4] == [1, 20, 39, 58]
