"""Reading the GPUs' energy, with a driver that is made up: this machine may have none."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vibelite.telemetry import energy
from vibelite.telemetry.energy import gpu_energy_reader


class NVMLError(Exception):
    pass


class FakeDriver:
    """As much of pynvml as is used, for GPUs named by their UUID."""

    NVMLError = NVMLError

    def __init__(self, millijoules: dict[str, int | None], *, has_driver: bool = True) -> None:
        self.millijoules = millijoules
        self.has_driver = has_driver

    def nvmlInit(self) -> None:
        if not self.has_driver:
            raise NVMLError("driver not loaded")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        value = self.millijoules[handle]
        if value is None:
            raise NVMLError("not supported")
        return value


@pytest.fixture
def install(monkeypatch):
    """Pretends that torch sees GPUs b and a, in this order, beside one that is another's."""

    def put(driver) -> None:
        monkeypatch.setattr(energy, "GPU_DEVICES", [Path("/dev/null")])
        monkeypatch.setitem(sys.modules, "pynvml", driver)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(
            torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid="ba"[index])
        )

    return put


def test_the_energy_of_this_process_s_gpus_is_added_up(install):
    driver = FakeDriver({"GPU-a": 1000, "GPU-b": 20_000, "GPU-other": 7})
    install(driver)
    read = gpu_energy_reader()
    assert read() == 21_000
    driver.millijoules["GPU-a"] = 1500
    assert read() == 21_500


@pytest.mark.parametrize(
    "driver",
    [
        None,  # nvidia-ml-py is not installed: importing it fails
        FakeDriver({}, has_driver=False),
        FakeDriver({"GPU-a": 1000, "GPU-b": None}),  # a GPU without a counter
    ],
)
def test_energy_that_cannot_be_read_is_unknown(install, driver):
    install(driver)
    assert gpu_energy_reader()() is None


def test_a_machine_without_a_gpu_has_nothing_to_read(monkeypatch):
    monkeypatch.setattr(energy, "GPU_DEVICES", [Path("/dev/null")])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert energy.num_gpus() == 0
    assert gpu_energy_reader()() is None


def test_torch_is_not_asked_where_no_driver_is(install, monkeypatch):
    install(FakeDriver({}))
    assert energy.num_gpus() == 2
    monkeypatch.setattr(energy, "GPU_DEVICES", [Path("/nowhere/nvidiactl")])
    assert energy.num_gpus() == 0
