"""Spans under a fake clock: exclusive, nested, and adding up to wall time to the nanosecond."""

import random
import subprocess
import sys
import time

import pytest

from tests.telemetry.ledgers import FakeClock
from tests.telemetry.nvml_driver import FakeDriver
from vibelite.telemetry.energy import GpuMeter
from vibelite.telemetry.meter import BOOT, IDLE, Lap, Meter, joint_lap, process_nanoseconds


@pytest.fixture
def clock():
    return FakeClock()


def test_an_inner_span_pauses_the_outer(clock):
    meter = Meter(clock)
    clock.now += 5
    with meter.span("train"):
        clock.now += 10
        with meter.span("checkpoint"):
            clock.now += 100
        clock.now += 20
    clock.now += 7
    lap = meter.lap()
    assert lap.nanoseconds == {IDLE: 12, "train": 30, "checkpoint": 100}
    assert sum(lap.nanoseconds.values()) == 142


def test_a_lap_inside_a_span_splits_it(clock):
    meter = Meter(clock)
    with meter.span("rollout"):
        clock.now += 11
        first = meter.lap()
        clock.now += 13
    second = meter.lap()
    assert first.nanoseconds == {IDLE: 0, "rollout": 11}
    assert second.nanoseconds == {IDLE: 0, "rollout": 13}


def test_a_span_left_by_an_error_is_closed(clock):
    meter = Meter(clock)
    with pytest.raises(RuntimeError), meter.span("train"):
        clock.now += 2
        raise RuntimeError
    clock.now += 3
    assert meter.lap().nanoseconds == {"train": 2, IDLE: 3}


def test_spans_add_up_to_wall_for_random_nesting(clock):
    generator = random.Random(0)
    meter = Meter(clock)

    def work(depth):
        for _ in range(generator.randrange(4)):
            clock.now += generator.randrange(1, 10**9)
            if depth < 4:
                with meter.span(generator.choice(["rollout", "verify", "train"])):
                    work(depth + 1)

    start = clock.now
    walls = []
    for _ in range(50):
        work(0)
        walls.append(sum(meter.lap().nanoseconds.values()))
    assert clock.now > start
    assert sum(walls) == clock.now - start


def test_tokens_and_counts_are_those_since_the_last_lap(clock):
    meter = Meter(clock)
    meter.add_tokens(prompt=3, generated=10)
    meter.add_tokens(generated=5, trained=7)
    meter.add_counts({"num_correct": 3})
    meter.add_counts({"num_correct": 2, "num_useful": 1})
    first, second = meter.lap(), meter.lap()
    assert first.tokens == {"prompt": 3, "generated": 15, "trained": 7}
    assert first.counts == {"num_correct": 5, "num_useful": 1}
    assert second.tokens == {"prompt": 0, "generated": 0, "trained": 0} and second.counts == {}


def test_energy_is_the_difference_of_two_readings_and_unknown_where_one_is(clock):
    driver = FakeDriver({"GPU-a": 1000})
    meter = Meter(clock, gpus=GpuMeter(driver, ["GPU-a"]))
    found = []
    for reading in (1700, None, 2500, 2600):
        driver.millijoules["GPU-a"] = reading
        found.append(meter.lap().gpu_millijoules)
    assert found == [700, None, None, 100]


def test_what_passed_before_the_meter_was_made_is_in_the_first_lap_alone(clock):
    meter = Meter(clock, boot_nanoseconds=50)
    clock.now += 5
    assert [meter.unrecorded_nanoseconds for _ in range(2)] == [55, 55], "no lap ends by looking"
    assert meter.lap().nanoseconds == {IDLE: 5, BOOT: 50}
    assert meter.lap().nanoseconds == {IDLE: 0}


def test_the_age_of_a_process_is_what_its_parent_measures():
    program = (
        "import time; time.sleep(0.5)\n"
        "from vibelite.telemetry.meter import process_nanoseconds\n"
        "print(time.monotonic(), process_nanoseconds() / 1e9, time.monotonic())\n"
    )
    earliest = time.monotonic()
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    latest = time.monotonic()  # it has been started by now
    before, age, after = map(float, process.communicate()[0].split())
    assert before - latest - 0.02 < age < after - earliest + 0.02  # the kernel counts in 10 ms
    assert age > 0.48
    assert process_nanoseconds() > 0


def test_of_several_ranks_the_leaders_time_is_paid_for_once_and_tokens_are_all_ranks():
    leader = Lap({"train": 3, "wait": 1}, {"trained": 10}, {"train": 5, "wait": 1}, {}, 700)
    other = Lap({"train": 4, "verify": 1}, {"trained": 20}, {"train": 4, "verify": 9}, {}, 300)
    joint = joint_lap([leader, other])
    assert joint.nanoseconds == leader.nanoseconds
    assert joint.gpu_millijoules == 700, "the leader reads the counters of all GPUs"
    assert joint.tokens == {"trained": 30}
    assert joint.peak_bytes == {"train": 5, "wait": 1, "verify": 9}
