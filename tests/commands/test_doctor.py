"""What doctor says of other machines: packages, drivers, disks and networks."""

import sys
import threading
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path

import pytest

from vibelite import __version__, hints
from vibelite.commands import doctor, machine
from vibelite.commands.doctor import findings_as_json
from vibelite.commands.machine import Finding, examine
from vibelite.commands.options import shipped_recipes
from vibelite.planning import devices
from vibelite.recipe.load import load_recipe

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def packages(monkeypatch):
    """Pretends that these versions, with these requirements, are what is installed."""

    def install(versions: dict[str, str], requires: dict[str, list[str]]) -> None:
        def version(name: str) -> str:
            if name not in {"vibelite": OWN, **versions}:
                raise metadata.PackageNotFoundError(name)
            return versions.get(name, "0")

        monkeypatch.setattr(metadata, "version", version)
        monkeypatch.setattr(metadata, "requires", lambda name: requires.get(name))

    return install


OWN = ["torch==2.13.*", 'vllm<0.33,>=0.30; extra == "gpu"', 'pytest>=9; extra == "dev"']


def test_a_package_built_for_another_torch_is_found_before_it_is_used(packages):
    needs = {"vibelite": OWN, "vllm": ["torch==2.11.0", 'ray>=2; extra == "ray"', "numpy"]}
    packages({"torch": "2.13.0", "vllm": "0.26.0", "numpy": "2.4.6"}, needs)
    (finding,) = machine._conflicts()
    assert (finding.status, finding.subject) == ("warn", "vllm and torch")
    assert finding.detail == "vllm 0.26.0 needs torch==2.11.0, not 2.13.0"
    assert "constraints/gpu.txt vllm" in finding.fix


def test_a_conflict_of_a_package_that_every_run_needs_fails(packages):
    needs = {"vibelite": ["transformers>=5.16"], "transformers": ["tokenizers<0.24,>=0.23"]}
    packages({"transformers": "5.17.0", "tokenizers": "0.24.1"}, needs)
    (finding,) = machine._conflicts()
    assert finding.status == "fail"
    assert not findings_as_json([finding])["ok"]


def test_packages_that_agree_and_those_that_are_missing_are_no_conflict(packages):
    needs = {"vibelite": OWN, "vllm": ["torch==2.13.0", "flashinfer==1"]}
    packages({"torch": "2.13.0", "vllm": "0.32.0"}, needs)
    assert list(machine._conflicts()) == []


def test_extras_are_reported_where_they_are_installed(packages):
    torch = Finding("ok", "torch", "2.13.0")
    packages({"torch": "2.13.0", "vllm": "0.32.1", "pytest": "9.0"}, {"vibelite": OWN})
    assert list(machine._packages()) == [torch, Finding("ok", "vllm (for gpu)", "0.32.1")]
    packages({"torch": "2.13.0", "vllm": "0.20.0"}, {"vibelite": OWN})
    _, finding = machine._packages()
    assert (finding.status, finding.detail) == ("warn", "0.20.0, tested with <0.33,>=0.30")
    assert "vllm<0.33,>=0.30" in finding.fix
    packages({"torch": "2.13.0"}, {"vibelite": OWN})
    assert list(machine._packages()) == [torch]


def test_a_missing_and_a_wrong_requirement_fail(packages):
    packages({"torch": "2.11.0"}, {"vibelite": [*OWN, "numpy>=2"]})
    torch, numpy = machine._packages()
    assert (torch.status, torch.detail) == ("fail", "2.11.0, needs ==2.13.*")
    assert (numpy.status, numpy.detail) == ("fail", "not installed")
    assert "-m pip install" in numpy.fix and "'numpy>=2'" in numpy.fix


class NVMLError(Exception):
    pass


class FakeDriver:
    """As much of pynvml as doctor asks."""

    NVMLError = NVMLError

    def __init__(self, cuda: int = 13000, *, is_loaded: bool = True, counts: bool = True) -> None:
        self.cuda, self.is_loaded, self.counts = cuda, is_loaded, counts

    def nvmlInit(self) -> None:
        if not self.is_loaded:
            raise NVMLError("Driver Not Loaded")

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.10"

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return self.cuda

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        if not self.counts:
            raise NVMLError("Not Supported")
        return 5


@pytest.mark.parametrize(
    ("driver", "expected"),
    [
        (FakeDriver(), {"GPU driver": "ok", "energy of GPU 0": "ok"}),
        (FakeDriver(12080), {"GPU driver": "fail", "energy of GPU 0": "ok"}),
        (FakeDriver(counts=False), {"GPU driver": "ok", "energy of GPU 0": "warn"}),
        (FakeDriver(is_loaded=False), {"GPU driver": "warn"}),
        (None, {"GPU driver": "warn"}),  # nvidia-ml-py is not installed: importing it fails
    ],
)
def test_the_driver_must_know_the_cuda_of_torch(monkeypatch, driver, expected):
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    findings = list(machine._driver("13.0"))
    assert {finding.subject: finding.status for finding in findings} == expected
    assert all((finding.status == "ok") == (finding.fix == "") for finding in findings)


def test_small_shared_memory_and_disks_are_warned_of(monkeypatch):
    usage = Usage(0, 0, 64 << 20)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(machine, "SHARED_MEMORY", Path("/"))
    (finding,) = machine._shared_memory()
    assert (finding.status, finding.detail) == ("warn", "0.1 GiB free in /")
    assert "--shm-size" in finding.fix
    assert machine._disk("cache", Path("/nowhere/at/all")).status == "warn"


class Hub(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(503 if self.path == "/down" else 200)
        self.end_headers()

    def log_message(self, *_) -> None:
        """Nothing on the console."""


@pytest.fixture
def hub(monkeypatch):
    """The address of a hub on this machine, which is asked from now on."""
    server = HTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_hub_answers_or_the_reason_is_told(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", hub)
    assert machine._hub() == Finding("ok", "hub", f"{hub} answers")
    monkeypatch.setenv("HF_ENDPOINT", f"{hub}/down")
    assert "status 503" in machine._hub().detail
    for address in ("http://127.0.0.1:1", "no address"):
        monkeypatch.setenv("HF_ENDPOINT", address)
        finding = machine._hub()
        assert finding.status == "warn" and "cannot be reached" in finding.detail
        assert "path:" in finding.fix
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert machine._hub().detail == "not asked: HF_HUB_OFFLINE is set"


def test_warnings_leave_a_machine_ready_and_failures_do_not():
    warning = Finding("warn", "GPU", "torch sees none", "none needed")
    assert findings_as_json([warning])["ok"]
    assert not findings_as_json([warning, Finding("fail", "python", "3.9", "use 3.11")])["ok"]


def test_this_machine_is_ready_and_every_line_that_is_not_ok_says_what_to_do():
    findings = examine()
    assert findings_as_json(findings)["ok"]
    assert {"torch", "sandbox", "hub", "GPU", "shared memory"} <= {
        "GPU" if finding.subject.startswith("GPU") else finding.subject for finding in findings
    }
    assert all((finding.status == "ok") == (finding.fix == "") for finding in findings)


def test_a_checkout_that_is_not_installed_is_examined_by_its_project(monkeypatch):
    version = metadata.version

    def not_installed(name):
        if name == "vibelite":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", not_installed)
    assert machine._itself().detail.startswith(f"{__version__}, not installed, run from /")
    found = {finding.subject: finding.status for finding in machine._packages()}
    assert found["torch"] == found["gguf (for smollm)"] == "ok"
    assert hints.install("vibelite[gpu]").endswith("'.[gpu]'")


def test_what_a_recipe_lacks_on_this_machine_is_told(monkeypatch):
    settings = ["adapter=null", "model.loader=unsloth", "stages.sft.optimizer.kind=adamw_8bit"]
    recipe = load_recipe(shipped_recipes()["vibethinker_1p5b_qlora_24gb"], settings)
    installed = {"bitsandbytes"}
    monkeypatch.setattr(doctor, "find_spec", lambda name: name in installed or None)
    monkeypatch.setattr(devices, "_driver_says", lambda: "NVIDIA L4, 2000")
    weak = Finding("warn", "sandbox", "nothing confines", "none needed")
    findings = list(doctor.needs_of_recipe(recipe, Path(), [weak]))
    told = {finding.subject: finding for finding in findings}
    assert told["stages.sft.optimizer.kind"].status == "ok"
    failed = {subject for subject, finding in told.items() if finding.status == "fail"}
    expected = {"rollout.engine", "model.loader", "code problems", "memory of the recipe"}
    assert expected <= failed
    assert "which is too much" in told["memory of the recipe"].detail
    engine = [finding.fix for finding in findings if finding.subject == "rollout.engine"]
    assert "'vibelite[gpu]'" in engine[0] and "rollout.engine=transformers" in engine[1]


def test_the_quickstart_lacks_nothing():
    recipe = load_recipe(shipped_recipes()["quickstart"])
    assert {one.status for one in doctor.needs_of_recipe(recipe, Path(), [])} == {"ok"}
