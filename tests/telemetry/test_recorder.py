"""What a step leaves behind on disk and on the console."""

import json
import math

import pytest

from vibelite.errors import VibeLiteError
from vibelite.recipe.run_section import Cost
from vibelite.run_dir import StageDir, read_jsonl
from vibelite.telemetry.meter import Meter
from vibelite.telemetry.recorder import Recorder, stage_cost


class FakeClock:
    def __init__(self):
        self.now = 0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def make_recorder(tmp_path, clock):
    def make(stage="mgpo", usd_per_hour=3.6):
        stage_dir = StageDir(tmp_path / "stages" / f"00-{stage}")
        meter = Meter(clock)
        ledger_path = tmp_path / "ledger.jsonl"
        cost = Cost(usd_per_hour=usd_per_hour)
        return Recorder(stage, stage_dir, ledger_path, cost, meter), meter, stage_dir, ledger_path

    return make


def spend(meter, clock, span, seconds):
    with meter.span(span):
        clock.now += round(seconds * 1e9)


def test_a_step_is_recorded_in_steps_ledger_and_console(make_recorder, clock, capsys):
    recorder, meter, stage_dir, ledger_path = make_recorder()
    spend(meter, clock, "rollout", 3)
    meter.add_tokens(generated=100)
    clock.now += 10**9
    record = recorder.record_step(1, {"reward/mean": 0.25, "policy/loss": -0.5})
    assert record.seconds == {"idle": 1.0, "rollout": 3.0}
    assert record.usd == 0.004
    assert record.peak_bytes.keys() == {"idle", "rollout"}
    assert min(record.peak_bytes.values()) > 10_000_000
    (row,) = read_jsonl(stage_dir.steps_path)
    assert row["metrics"] == {"reward/mean": 0.25, "policy/loss": -0.5}
    assert row["tokens"] == {"prompt": 0, "generated": 100, "trained": 0}
    assert (row["stage"], row["step"], row["usd"], row["joules"]) == ("mgpo", 1, 0.004, None)
    assert stage_cost(ledger_path, "mgpo") == (4.0, 0.004)
    line = "mgpo 1  reward 0.25  loss -0.5  4.00 s  $0.0040 so far\n"
    assert capsys.readouterr().err == line


def test_money_so_far_goes_on_after_a_restart(make_recorder, clock, capsys):
    recorder, meter, _, _ = make_recorder("sft")
    spend(meter, clock, "train", 1000)
    recorder.record_step(1, {})
    recorder, meter, _, _ = make_recorder("mgpo")
    spend(meter, clock, "train", 1000)
    recorder.record_step(1, {})
    assert capsys.readouterr().err.endswith("1000.00 s  $2.0000 so far\n")


def test_no_price_no_money_on_the_console(make_recorder, clock, capsys):
    recorder, meter, _, _ = make_recorder(usd_per_hour=None)
    spend(meter, clock, "train", 1)
    assert recorder.record_step(1, {}).usd is None
    assert "$" not in capsys.readouterr().err


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
    (line,) = read_jsonl(ledger_path)
    assert (line["step"], line["what"]) == (None, "probe")
    assert line["details"] == {"checkpoint": "step-000010"}
    assert not stage_dir.steps_path.exists()


def test_every_nanosecond_is_in_exactly_one_line(make_recorder, clock):
    recorder, meter, _, ledger_path = make_recorder()
    for step in range(1, 6):
        spend(meter, clock, "rollout", 0.123456789 * step)
        clock.now += 17
        recorder.record_step(step, {})
        clock.now += 5
        recorder.record_work("checkpoint")
    total = sum(sum(line["nanoseconds"].values()) for line in read_jsonl(ledger_path))
    assert total == clock.now


def test_samples_carry_their_step_and_any_text(make_recorder):
    recorder, _, stage_dir, _ = make_recorder()
    recorder.record_samples(4, [{"completion": "<b>\n\x1b[31m\ud7ff"}, {"completion": ""}])
    lines = stage_dir.samples_path.read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines[:-1]]
    assert rows == [
        {"step": 4, "completion": "<b>\n\x1b[31m\ud7ff"},
        {"step": 4, "completion": ""},
    ]
