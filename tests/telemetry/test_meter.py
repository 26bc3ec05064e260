"""Spans under a fake clock: exclusive, nested, and adding up to wall time to the nanosecond."""

import random

import pytest

from vibelite.telemetry.meter import IDLE, Meter


class FakeClock:
    def __init__(self):
        self.now = 1_000

    def __call__(self):
        return self.now

    def advance(self, nanoseconds):
        self.now += nanoseconds


@pytest.fixture
def clock():
    return FakeClock()


def test_an_inner_span_pauses_the_outer(clock):
    meter = Meter(clock)
    clock.advance(5)
    with meter.span("train"):
        clock.advance(10)
        with meter.span("checkpoint"):
            clock.advance(100)
        clock.advance(20)
    clock.advance(7)
    lap = meter.lap()
    assert lap.nanoseconds == {IDLE: 12, "train": 30, "checkpoint": 100}
    assert lap.wall_nanoseconds == 142


def test_a_span_within_itself_counts_once(clock):
    meter = Meter(clock)
    with meter.span("load"):
        clock.advance(3)
        with meter.span("load"):
            clock.advance(4)
    assert meter.lap().nanoseconds == {IDLE: 0, "load": 7}


def test_a_lap_inside_a_span_splits_it(clock):
    meter = Meter(clock)
    with meter.span("rollout"):
        clock.advance(11)
        first = meter.lap()
        clock.advance(13)
    second = meter.lap()
    assert first.nanoseconds == {IDLE: 0, "rollout": 11}
    assert second.nanoseconds == {IDLE: 0, "rollout": 13}


def test_a_span_left_by_an_error_is_closed(clock):
    meter = Meter(clock)
    with pytest.raises(RuntimeError), meter.span("train"):
        clock.advance(2)
        raise RuntimeError
    clock.advance(3)
    assert meter.lap().nanoseconds == {"train": 2, IDLE: 3}


def test_spans_add_up_to_wall_for_random_nesting(clock):
    generator = random.Random(0)
    meter = Meter(clock)

    def work(depth):
        for _ in range(generator.randrange(4)):
            clock.advance(generator.randrange(1, 10**9))
            if depth < 4:
                with meter.span(generator.choice(["rollout", "verify", "train"])):
                    work(depth + 1)

    start = clock.now
    walls = []
    for _ in range(50):
        work(0)
        walls.append(meter.lap().wall_nanoseconds)
    assert clock.now > start
    assert sum(walls) == clock.now - start


def test_seconds_are_nanoseconds_over_a_billion(clock):
    meter = Meter(clock)
    with meter.span("train"):
        clock.advance(2_500_000_000)
    lap = meter.lap()
    assert lap.seconds == {IDLE: 0.0, "train": 2.5}
    assert lap.wall_seconds == 2.5


def test_tokens_are_counted_since_the_last_lap(clock):
    meter = Meter(clock)
    meter.add_tokens(prompt=3, generated=10)
    meter.add_tokens(generated=5, trained=7)
    assert meter.lap().tokens == {"prompt": 3, "generated": 15, "trained": 7}
    assert meter.lap().tokens == {"prompt": 0, "generated": 0, "trained": 0}
