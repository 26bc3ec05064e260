"""What holds for all tests: no network, no telemetry, no downloads, one thread; nothing that a test
changes outlives it, no test is skipped for a new reason.
"""

import fcntl
import os
import socket
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

# Before any test imports the libraries that read them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# As the command sets it for its own process.
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
# One thread: the same bits on any machine and in any order of the tests.
os.environ["OMP_NUM_THREADS"] = "1"
# `make test` and the same command in a shell are one thing; MAKEFLAGS would tell a test's own make
# that it is part of another.
for _name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
    os.environ.pop(_name, None)

from tests.allowed_skips import is_allowed  # noqa: E402
from tests.process_state import ProcessState  # noqa: E402

_AT_START = ProcessState.now()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None, None, None]:
    """Fails a test that leaves the process changed, and restores it for the next one."""
    yield
    if left := _AT_START.restore():
        pytest.fail("it leaves changed: " + "; ".join(left), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Makes a failure of a skip whose reason is not in the list."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        _refuse_unknown_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a module that skips itself."""
    report = yield
    if report.skipped:
        _refuse_unknown_skip(report)
    return report


def _refuse_unknown_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    assert isinstance(report.longrepr, tuple)
    reason = report.longrepr[2]
    if not is_allowed(reason):
        report.outcome = "failed"
        report.longrepr = f"{reason!r} is not in tests/allowed_skips.py"


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file's tests run in one process, where they share its fixtures: a group of pytest-xdist.
    Runs of several ranks are one group, because two at once would fight for the cores.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            file = item.nodeid.partition("::")[0]
            is_of_ranks = file.startswith("tests/distributed/")
            item.add_marker(pytest.mark.xdist_group("ranks" if is_of_ranks else file))


@pytest.fixture
def one_thread() -> None:
    """All tests have one thread of torch; this name marks those that compare bits."""
    import torch

    assert torch.get_num_threads() == 1


@pytest.fixture(scope="session")
def nano_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run of nano.yaml, made once for all processes of the tests. To be read only: who
    changes it takes a copy.
    """
    from tests.integration.test_pipeline import run

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    directory = shared / "nano-run"
    with open(shared / "nano-run.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            made = shared / "nano-run.part"
            run(made)
            made.rename(directory)
    return directory


@pytest.fixture(scope="session")
def whole(nano_run: Path) -> dict[str, Any]:
    """What every run of nano.yaml has to end with, however it was interrupted."""
    from tests.integration.test_pipeline import outcome

    return outcome(nano_run)


@pytest.fixture
def disk_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every os.fsync and os.replace of this process from here on, by the names of the files."""
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(descriptor: int) -> None:
        calls.append(f"fsync {os.path.basename(os.readlink(f'/proc/self/fd/{descriptor}'))}")
        fsync(descriptor)

    def recorded_replace(source: str, target: str) -> None:
        calls.append(f"replace {os.path.basename(source)} -> {os.path.basename(target)}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    return calls


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Refuses every connection that would leave this machine."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: object) -> None:
        is_local = self.family == socket.AF_UNIX or (
            isinstance(address, tuple) and address[0] in ("127.0.0.1", "::1", "localhost")
        )
        if not is_local:
            raise OSError(f"a test tried to connect to {address}")
        connect(self, address)  # pyright: ignore[reportArgumentType]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        yield
