"""What a step leaves behind on disk and on the console."""

import json
import math

import pytest

from tests.telemetry.ledgers import FakeClock
from tests.telemetry.nvml_driver import FakeDriver
from vibelite.errors import VibeLiteError
from vibelite.recipe.run_section import Budget, Cost
from vibelite.run_dir import StageDir, read_jsonl
from vibelite.telemetry.energy import GpuMeter
from vibelite.telemetry.ledger import read_ledger, run_cost
from vibelite.telemetry.meter import Meter
from vibelite.telemetry.recorder import Recorder
from vibelite.telemetry.spending import Spending
from vibelite.telemetry.stop import StopRules


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def make_recorder(tmp_path, clock):
    def make(stage="mgpo", usd_per_hour=3.6, num_steps=None, sinks=(), gpus=None):
        stage_dir = StageDir(tmp_path / "stages" / f"00-{stage}")
        meter = Meter(clock, gpus=gpus)
        ledger_path = tmp_path / "ledger"
        stop = StopRules(Budget(), Spending(Cost(usd_per_hour=usd_per_hour), ledger_path))
        recorder = Recorder(stage, stage_dir, meter, stop, num_steps=num_steps, sinks=sinks)
        return recorder, meter, stage_dir, ledger_path

    return make


def spend(meter, clock, span, seconds):
    with meter.span(span):
        clock.now += round(seconds * 1e9)


def test_a_step_is_recorded_in_steps_ledger_and_console(make_recorder, clock, capsys):
    gpu = GpuMeter(FakeDriver({"GPU-a": 5000}, busy_percent={"GPU-a": 60}), ["GPU-a"])
    recorder, meter, stage_dir, ledger_path = make_recorder(gpus=gpu)
    gpu.look()
    spend(meter, clock, "rollout", 3)
    meter.add_tokens(generated=100)
    clock.now += 10**9
    recorder.record_step(1, {"reward/mean": 0.25, "policy/loss": -0.5})
    (row,) = read_jsonl(stage_dir.steps_path)
    assert row["seconds"] == {"idle": 1.0, "rollout": 3.0}
    assert row["peak_bytes"].keys() == {"idle", "rollout"}
    assert min(row["peak_bytes"].values()) > 10_000_000
    assert row["metrics"] == {"reward/mean": 0.25, "policy/loss": -0.5}
    assert row["gpu_use"] == 0.6
    assert row["tokens"] == {"prompt": 0, "generated": 100, "trained": 0}
    assert (row["stage"], row["step"], row["usd"], row["joules"]) == ("mgpo", 1, 0.004, 0.0)
    assert run_cost(ledger_path, "mgpo") == (4.0, 0.004)
    line = "mgpo 1  reward 0.25  loss -0.5  4 s  25 tokens/s  $0.004  $0.004 so far\n"
    assert capsys.readouterr().err == line


def test_the_share_of_a_step_s_cost_without_signal_is_that_of_its_tokens(make_recorder, clock):
    recorder, meter, stage_dir, _ = make_recorder()
    recorder.record_step(1, {})
    for span, seconds in (("rollout", 3), ("verify", 1), ("train", 4)):
        spend(meter, clock, span, seconds)
    meter.add_counts({"zero_signal_tokens": 30, "group_tokens": 40})
    recorder.record_step(2, {})
    # Three quarters of the tokens, and sampling and verifying are half of the time.
    shares = [row["zero_signal_share"] for row in read_jsonl(stage_dir.steps_path)]
    assert shares == [None, 0.375]


def test_a_saved_state_is_not_in_the_rate_of_the_step_after_it(make_recorder, clock, capsys):
    recorder, meter, stage_dir, _ = make_recorder()
    for step, saving in ((1, 0), (2, 17)):
        spend(meter, clock, "checkpoint", saving)
        spend(meter, clock, "train", 2)
        meter.add_tokens(trained=1000)
        recorder.record_step(step, {})
    first, second = capsys.readouterr().err.splitlines()
    assert "2 s  500 tokens/s" in first and "2 s  500 tokens/s" in second
    assert [row["seconds"]["checkpoint"] for row in read_jsonl(stage_dir.steps_path)] == [0, 17]


def test_failures_of_the_verifier_are_on_the_console_where_there_are_any(make_recorder, capsys):
    recorder, *_ = make_recorder()
    metrics = {"verify/failures_timeout": 2, "verify/failures_crash": 0, "verify/unverifiable": 1}
    recorder.record_step(1, metrics)
    line = capsys.readouterr().err
    assert "  verifier timeouts 2  unverifiable 1  " in line
    assert "crash" not in line


def test_money_so_far_goes_on_after_a_restart(make_recorder, clock, capsys):
    recorder, meter, _, _ = make_recorder("sft")
    spend(meter, clock, "train", 1000)
    recorder.record_step(1, {})
    recorder, meter, _, _ = make_recorder("mgpo")
    spend(meter, clock, "train", 1000)
    recorder.record_step(1, {})
    assert capsys.readouterr().err.endswith("16 min  $1.00  $2.00 so far\n")


def test_no_price_no_money_on_the_console(make_recorder, clock, capsys):
    recorder, meter, stage_dir, _ = make_recorder(usd_per_hour=None, num_steps=20)
    for step in range(1, 15):
        spend(meter, clock, "train", 1)
        recorder.record_step(step, {})
    assert "$" not in capsys.readouterr().err
    row = list(read_jsonl(stage_dir.steps_path))[-1]
    assert (row["usd"], row["usd_so_far"], row["usd_at_end_of_stage"]) == (None, None, None)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_not_finite_stops_the_run_before_it_is_written(make_recorder, bad):
    recorder, _, stage_dir, ledger_path = make_recorder()
    with pytest.raises(VibeLiteError, match=r"stage 'mgpo', step 7: policy/kl is -?(nan|inf)"):
        recorder.record_step(7, {"reward/mean": 0.5, "policy/kl": bad})
    assert not stage_dir.steps_path.exists()
    assert not ledger_path.exists()


def test_work_that_is_no_step_is_only_in_the_ledger(make_recorder, clock):
    recorder, meter, stage_dir, ledger_path = make_recorder("probe")
    spend(meter, clock, "load", 2)
    lap = recorder.record_work("probe", checkpoint="step-000010")
    assert lap.wall_seconds == 2.0
    (entry,) = read_ledger(ledger_path)
    assert (entry.step, entry.what) == (None, "probe")
    assert entry.details == {"checkpoint": "step-000010"}
    assert not stage_dir.steps_path.exists()


def test_every_nanosecond_is_in_exactly_one_line(make_recorder, clock):
    recorder, meter, _, ledger_path = make_recorder()
    for step in range(1, 6):
        spend(meter, clock, "rollout", 0.123456789 * step)
        clock.now += 17
        recorder.record_step(step, {})
        clock.now += 5
        recorder.record_work("checkpoint")
    assert sum(entry.wall_nanoseconds for entry in read_ledger(ledger_path)) == clock.now


def test_the_projection_has_the_work_between_steps_in_it_and_not_what_came_before(
    make_recorder, clock, capsys
):
    recorder, meter, stage_dir, _ = make_recorder(usd_per_hour=3600.0, num_steps=20)
    spend(meter, clock, "load", 500)
    recorder.record_work("load")
    for step in range(1, 13):
        spend(meter, clock, "train", 2)
        recorder.record_step(step, {})
        spend(meter, clock, "checkpoint", 1)
        recorder.record_work("checkpoint")
    rows = list(read_jsonl(stage_dir.steps_path))
    projected = [row["usd_at_end_of_stage"] for row in rows]
    assert (rows[1]["usd"], rows[1]["usd_so_far"]) == (2.0, 505.0)
    assert projected[:10] == [None] * 10
    spent = 500 + 12 * 2 + 11 * 1
    assert projected[-1] == pytest.approx([spent + 8 * 3] * 3)
    line = "mgpo 12  2 s  $2.00  $535.00 so far  $559.00 (559.00 to 559.00) after mgpo"
    assert f"{line}  16 s left\n" in capsys.readouterr().err


def test_sinks_are_shown_every_step_with_its_time_tokens_and_money(make_recorder, clock):
    class Shown:
        def __init__(self):
            self.steps = {}

        def log(self, step, values):
            self.steps[step] = values

    sink = Shown()
    recorder, meter, _, _ = make_recorder(usd_per_hour=3600.0, sinks=[sink])
    for step in (1, 2):
        spend(meter, clock, "rollout", step)
        meter.add_tokens(generated=7)
        recorder.record_step(step, {"reward/mean": 0.5})
    recorder.record_work("checkpoint")
    assert list(sink.steps) == [1, 2]
    values = sink.steps[2]
    assert values["reward/mean"] == 0.5 and values["tokens/generated"] == 7
    assert (values["seconds/rollout"], values["usd/step"], values["usd/so_far"]) == (2.0, 2.0, 3.0)
    assert values["memory/peak_gib"] > 0.01


def test_samples_carry_their_step_and_any_text(make_recorder):
    recorder, _, stage_dir, _ = make_recorder()
    recorder.record_samples(4, [{"completion": "<b>\n\x1b[31m\ud7ff"}, {"completion": ""}])
    lines = stage_dir.samples_path.read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines[:-1]]
    assert rows == [
        {"step": 4, "completion": "<b>\n\x1b[31m\ud7ff"},
        {"step": 4, "completion": ""},
    ]
