"""Reading the GPUs' energy, with a driver that is made up: this machine may have none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.telemetry.nvml_driver import FakeDriver
from vibelite.errors import RecipeError
from vibelite.telemetry import energy
from vibelite.telemetry.energy import GpuMeter

ROOT = Path(__file__).parents[2]


@pytest.fixture
def install(monkeypatch):
    """Pretends that torch sees two GPUs, and the driver those that are given."""

    def put(driver, *, visible: str | None = "2,0") -> None:
        monkeypatch.setattr(energy, "GPU_DEVICES", [Path("/dev/null")])
        monkeypatch.setattr(energy, "is_torch_for_gpus", lambda: True)
        monkeypatch.setitem(sys.modules, "pynvml", driver)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return put


THREE = {"GPU-a": 1000, "GPU-other": 7, "GPU-b": 20_000}


def meter_of():
    return energy.gpu_meter.__wrapped__()


@pytest.mark.parametrize(
    ("visible", "driver"),
    [
        ("2,0", FakeDriver({**THREE})),
        ("GPU-b,GPU-a", FakeDriver({**THREE}, names={"GPU-other": "T4"})),
        (None, FakeDriver({"GPU-a": 1000, "GPU-b": 20_000})),
    ],
    ids=["numbers", "uuids", "all"],
)
def test_the_energy_of_this_process_s_gpus_is_added_up(install, visible, driver):
    install(driver, visible=visible)
    assert energy.num_gpus() == 2
    meter = meter_of()
    assert meter is not None
    assert meter.millijoules() == 21_000
    driver.millijoules["GPU-a"] = 1500
    assert meter.millijoules() == 21_500


def test_cuda_s_choice_of_gpus_is_read_as_cuda_reads_it():
    for chosen, places in {
        None: [0, 1, 2], "": [], "2, 0": [2, 0], "1,1": None, "1,3,0": None, "GPU-d": None,
        "GPU-c0, GPU-a5": [2, 0], "GPU-a": None, "GPU-a5,0": None, "a5": None, "MIG-a5": None,
    }.items():  # fmt: skip
        assert energy.visible_places(chosen, ["GPU-a5e1", "GPU-a77b", "GPU-c0ff"]) == places, chosen


def test_gpus_that_torch_does_not_see_end_the_run(install, monkeypatch):
    install(FakeDriver({**THREE}))
    energy.require_known_gpus()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match="driver has 2 GPUs for this run, and torch sees 0"):
        energy.require_known_gpus()


def test_whether_torch_is_built_for_gpus_is_read_from_its_files():
    assert energy.is_torch_for_gpus() == bool(torch.version.cuda or torch.version.hip)


LEDGER = """
import sys
from contextlib import contextmanager
from pathlib import Path
from tests.telemetry.nvml_driver import FakeDriver
from vibelite import pipeline
from vibelite.recipe.load import load_recipe
from vibelite.telemetry import energy

sys.modules["pynvml"] = FakeDriver({"GPU-a": 1000, "GPU-b": 20_000})
energy.GPU_DEVICES = [Path("/dev/null")]
energy.is_torch_for_gpus = lambda: True
run_dir = Path(sys.argv[1])

@contextmanager
def importing(recipe, run, meter):
    print("torch" in sys.modules, *(path.read_text() for path in run_dir.glob("ledger/*.jsonl")))
    sys.exit(0)
    yield

pipeline.torch_and_ranks = importing
recipe = Path("tests/integration/nano.yaml")
pipeline.run_pipeline(load_recipe(recipe, []), recipe_path=recipe, run_dir=run_dir)
"""


def test_with_gpus_too_the_ledger_is_open_before_torch_is_imported(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    done = subprocess.run(
        [sys.executable, "-c", LEDGER, str(tmp_path / "run")],
        capture_output=True, text=True, cwd=ROOT, env=environment,
    )  # fmt: skip
    assert done.stdout.startswith("False {"), done.stdout + done.stderr[-2000:]
    assert '"num_gpus": 2' in done.stdout and '"kind": "beat"' in done.stdout


@pytest.mark.parametrize(
    ("driver", "visible"),
    [
        (None, "1,0"),  # nvidia-ml-py is not installed: importing it fails
        (FakeDriver({}, has_driver=False), "1,0"),
        # GPUs that only torch can tell apart: of no known name, numbers of unlike cards, cut cards.
        (FakeDriver({**THREE}), "GPU-b,GPU-c"),
        (FakeDriver({**THREE}, names={"GPU-other": "T4"}), "1,0"),
        (FakeDriver({**THREE}, cut=("GPU-other",)), "1,0"),
    ],
)
def test_what_cannot_be_read_is_unknown_and_gpus_are_counted_by_torch(install, driver, visible):
    install(driver, visible=visible)
    assert energy.num_gpus() == 2
    assert meter_of() is None


def test_nobody_is_asked_where_no_driver_is(install, monkeypatch):
    install(FakeDriver({**THREE}), visible="2,0")
    monkeypatch.setattr(energy, "GPU_DEVICES", [Path("/nowhere/nvidiactl")])
    assert energy.num_gpus() == 0
    assert meter_of() is None


def test_the_share_of_time_in_which_gpus_worked_is_the_mean_of_what_was_seen():
    driver = FakeDriver({"GPU-a": 0, "GPU-b": 0}, busy_percent={"GPU-a": 80, "GPU-b": 0})
    meter = GpuMeter(driver, ["GPU-a", "GPU-b"])
    assert meter.use() is None
    assert meter.look()
    driver.busy_percent = {"GPU-a": 100, "GPU-b": 60}
    assert meter.look()
    assert meter.use() == pytest.approx((0.4 + 0.8) / 2)
    assert meter.use() is None, "since it was last asked"


def test_a_gpu_without_counters_has_neither_energy_nor_use():
    meter = GpuMeter(FakeDriver({"GPU-a": None}), ["GPU-a"])
    assert meter.millijoules() is None and not meter.look()
