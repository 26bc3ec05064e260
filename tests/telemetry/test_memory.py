"""Peaks by phase against memory that was really touched, and the alarm at steady growth."""

import subprocess
import sys

import pytest

from vibelite.errors import VibeLiteError
from vibelite.recipe.run_section import Budget, Cost
from vibelite.run_dir import StageDir, read_jsonl
from vibelite.telemetry.memory import CHECK_EVERY, NUM_GROWN, LeakWatch, bytes_held
from vibelite.telemetry.meter import Meter
from vibelite.telemetry.recorder import Recorder
from vibelite.telemetry.spending import Spending
from vibelite.telemetry.stop import StopRules

GIB = 2**30


def test_each_phase_has_its_own_peak_and_torch_is_not_imported():
    code = (
        "import sys\n"
        "from vibelite.telemetry.meter import Meter\n"
        "meter = Meter()\n"
        "with meter.span('small'):\n"
        "    pass\n"
        "with meter.span('large'):\n"
        "    block = bytes(bytearray(b'x') * (100 << 20))\n"
        "    del block\n"
        "with meter.span('after'):\n"
        "    pass\n"
        "assert 'torch' not in sys.modules\n"
        "peaks = meter.lap().peak_bytes\n"
        "print(peaks['large'] - peaks['small'], peaks['after'] - peaks['small'])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    large, after = map(int, result.stdout.split())
    assert 100 << 20 <= large <= 330 << 20
    assert after < 20 << 20


def test_an_inner_span_keeps_its_peak_to_itself():
    peaks = iter([1, 10, 100, 20, 2])
    meter = Meter(clock=lambda: 0, take_peak=lambda: next(peaks))
    with meter.span("train"), meter.span("checkpoint"):
        pass
    assert meter.lap().peak_bytes == {"idle": 2, "train": 20, "checkpoint": 100}


def test_held_memory_counts_what_is_touched_and_forgets_what_is_freed():
    before = bytes_held()
    block = bytearray(b"x") * (200 << 20)
    assert bytes_held() - before > 190 << 20
    del block
    assert bytes_held() - before < 20 << 20


def looks(values):
    """Runs a leak watch over one value per look; the step at which it raised, or None."""
    remaining = iter(values)
    watch = LeakWatch(held=lambda: next(remaining))
    for step in range(1, CHECK_EVERY * len(values) + 1):
        try:
            watch.check(step)
        except VibeLiteError:
            return step
    return None


def test_steady_growth_is_a_leak():
    assert looks([round(GIB * 1.2**look) for look in range(9)]) == CHECK_EVERY * (NUM_GROWN + 1)


@pytest.mark.parametrize(
    "values",
    [
        [1.0, 1.5, 1.5, 1.5, 1.5, 1.5],  # a cache that fills once
        [1.0, 1.2, 1.4, 1.3, 1.5, 1.6, 1.5],  # it comes back
        [1.0 + 0.05 * look for look in range(20)],  # slower than what counts
    ],
)
def test_memory_that_settles_is_none(values):
    assert looks([round(GIB * value) for value in values]) is None


def test_a_run_whose_steps_keep_what_they_use_ends_after_its_40th_is_written(tmp_path):
    stop = StopRules(Budget(), Spending(Cost(), tmp_path / "ledger"))
    stage_dir = StageDir(tmp_path / "stages" / "00-mgpo")
    recorder = Recorder("mgpo", stage_dir, Meter(), stop)
    kept = []
    with pytest.raises(VibeLiteError, match=r"step 40: .* from \d.\d\d to \d.\d\d GiB in 30"):
        for step in range(1, 61):
            kept.append(bytearray(b"x") * round(bytes_held() * 0.02))
            recorder.record_step(step, {"reward/mean": 0.0})
    assert [row["step"] for row in read_jsonl(stage_dir.steps_path)] == list(range(1, 41))


def test_freed_tensors_leave_resident_memory():
    code = (
        "from vibelite.telemetry.memory import return_freed_tensors\n"
        "from vibelite.telemetry.memory import resident_bytes\n"
        "return_freed_tensors()\n"
        "before = resident_bytes()\n"
        # Blocks of a growing size with a small one between them: what fragments a heap.
        "keep = []\n"
        "for size in range(1, 9):\n"
        "    blocks = [bytearray(size << 20) for _ in range(16)]\n"
        "    keep.append(bytearray(1000))\n"
        "    del blocks\n"
        "print(resident_bytes() - before)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 8 << 20
