"""A step on several ranks as one record."""

from vibelite.telemetry.meter import Lap
from vibelite.telemetry.ranks import joint_lap, spread_of

SECOND = 10**9
LEADER = Lap(
    {"train": 3 * SECOND, "wait": SECOND}, {"trained": 10}, {"train": 5, "wait": 1}, {}, 700
)
OTHER = Lap(
    {"train": 4 * SECOND, "verify": SECOND}, {"trained": 20}, {"train": 4, "verify": 9}, {}, 300
)


def test_the_leaders_time_is_paid_for_once_and_tokens_are_all_ranks():
    joint = joint_lap([LEADER, OTHER])
    assert joint.nanoseconds == LEADER.nanoseconds
    assert joint.gpu_millijoules == 700, "the leader reads the counters of all GPUs"
    assert joint.tokens == {"trained": 30}
    assert joint.peak_bytes == {"train": 5, "wait": 1, "verify": 9}


def test_the_spread_over_ranks_is_by_span_and_nothing_for_one():
    assert spread_of([LEADER]) == {}
    assert spread_of([LEADER, OTHER]) == {
        "seconds_max": {"train": 4.0, "wait": 1.0, "verify": 1.0},
        "seconds_mean": {"train": 3.5, "wait": 0.5, "verify": 0.5},
        "peak_bytes_mean": {"train": 4.5, "wait": 0.5, "verify": 4.5},
    }
