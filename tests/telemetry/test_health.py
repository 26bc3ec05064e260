"""Which steps are called unhealthy, why, and when that is said."""

import re

import pytest

from vibelite.telemetry.health import FIRST_STEPS, LAST_STEPS, Health

FINE = {
    "groups/signal": 0.5,
    "groups/all_correct": 0.25,
    "reward/mean": 0.5,
    "completion/truncated": 0.05,
    "completion/mean_tokens": 100.0,
    "policy/entropy": 0.5,
    "optimizer/grad_norm": 0.4,
    "verify/failures_timeout": 0,
    "verify/failures_crash": 0,
    "verify/failures_exception": 0,
    "verify/unverifiable": 0,
    "num_completions": 64,
}
NO_SIGNAL = FINE | {"groups/signal": 0.0}


def followed(steps):
    """(causes that hold, causes that begin) of every step."""
    health = Health([])
    return [health.look(step) for step in steps]


def test_a_healthy_run_is_told_nothing():
    assert followed([FINE] * 30) == [({}, [])] * 30
    assert followed([{"sft/loss": 1.0, "optimizer/grad_norm": 0.4}] * 30) == [({}, [])] * 30


@pytest.mark.parametrize(
    ("cause", "change", "said"),
    [
        ("cut off", {"completion/truncated": 0.97}, "97% of the completions are cut off"),
        (
            "verifier failures",
            {"verify/failures_crash": 7},
            r"failed on 7 of 64 completions \(7 crash",
        ),
        ("unverifiable", {"verify/unverifiable": 40}, "40 of 64 completions hold nothing"),
        ("entropy collapse", {"policy/entropy": 0.04}, "from 0.5 to 0.04 nats.*optimizer.lr"),
        ("length", {"completion/mean_tokens": 20.0}, "collapsed from 100 to 20 tokens"),
        ("length", {"completion/mean_tokens": 450.0}, "exploded from 100 to 450 tokens"),
        ("gradient spike", {"optimizer/grad_norm": 9.0}, "norm is 9, usually 0.4"),
    ],
)
def test_each_cause_is_named_with_its_numbers(cause, change, said):
    *_, (found, begun) = followed([FINE] * 12 + [FINE | change])
    assert list(found) == begun == [cause]
    assert re.search(said, found[cause])


@pytest.mark.parametrize(
    ("change", "setting"),
    [
        ({"completion/truncated": 1.0, "reward/mean": 0.0}, "sampling.max_new_tokens"),
        ({"reward/mean": 0.0}, "vibelite verify"),
        ({"reward/mean": 1.0, "groups/all_correct": 1.0}, "harder problems"),
        ({"reward/mean": 0.3}, "check the reward"),
    ],
)
def test_without_a_signal_the_likeliest_reason_is_told(change, setting):
    *_, (found, _) = followed([NO_SIGNAL | change] * 2)
    assert setting in found["no signal"]


def test_one_step_without_a_signal_may_be_chance():
    assert [begun for _, begun in followed([NO_SIGNAL, FINE, NO_SIGNAL, NO_SIGNAL])] == [
        [], [], [], ["no signal"],
    ]  # fmt: skip


def test_what_goes_on_or_comes_back_soon_is_said_once():
    cut = FINE | {"completion/truncated": 1.0}
    steps = [cut, cut, FINE, cut, *[FINE] * LAST_STEPS, cut]
    begun = [step for step, (_, begun) in enumerate(followed(steps)) if begun]
    assert begun == [0, len(steps) - 1]


def test_a_change_needs_first_steps_to_be_one():
    short = FINE | {"completion/mean_tokens": 1.0, "policy/entropy": 0.001}
    found = [set(causes) for causes, _ in followed([FINE] * FIRST_STEPS + [short])]
    assert found == [set()] * FIRST_STEPS + [{"length", "entropy collapse"}]
    assert followed([FINE] * (FIRST_STEPS - 1) + [short])[-1] == ({}, [])


def test_steps_in_a_row_are_counted_over_processes():
    health = Health([FINE, NO_SIGNAL, NO_SIGNAL])
    health.look(NO_SIGNAL)
    assert health.num_without_signal == 3
    health.look(FINE)
    assert health.num_without_signal == 0
