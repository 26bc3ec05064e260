"""The guards of tests/conftest.py: what a test leaves behind, and skips that nobody allowed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import torch

from tests.allowed_skips import is_allowed
from tests.process_state import ProcessState

ROOT = Path(__file__).parents[1]
SUITE = """
import os
import pytest
import torch

def test_leaves_the_environment(): os.environ["VIBELITE_LEFT"] = "1"
def test_leaves_threads(): torch.set_num_threads(2)
def test_leaves_the_directory(tmp_path): os.chdir(tmp_path)
def test_finds_everything_restored():
    assert "VIBELITE_LEFT" not in os.environ and torch.get_num_threads() == 1
def test_is_skipped_as_allowed(): pytest.skip("no Chromium on this machine")
def test_is_skipped(): pytest.skip("it is Monday")
"""


def test_a_leak_and_an_unlisted_skip_are_failures(tmp_path: Path) -> None:
    (tmp_path / "test_suite.py").write_text(SUITE)
    (tmp_path / "pytest.ini").write_text("[pytest]")
    options = ["-q", "-p", "tests.conftest", "-p", "no:randomly", "-p", "no:cacheprovider", "-rfE"]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    failed = re.findall(r"^(FAILED|ERROR) .*::(\w+)", ended.stdout, re.MULTILINE)
    assert sorted(failed) == [
        ("ERROR", "test_leaves_the_directory"),
        ("ERROR", "test_leaves_the_environment"),
        ("ERROR", "test_leaves_threads"),
        ("FAILED", "test_is_skipped"),
    ], ended.stdout
    assert "VIBELITE_LEFT is '1', was None" in ended.stdout
    assert "'Skipped: it is Monday' is not in tests/allowed_skips.py" in ended.stdout
    assert re.search(r"1 failed, 4 passed, 1 skipped, 3 errors", ended.stdout)


def test_every_change_of_the_process_is_named_and_undone(tmp_path: Path) -> None:
    state = ProcessState.now()
    home = os.environ["HOME"]
    os.environ.pop("HOME")
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("high")
    torch.set_deterministic_debug_mode("warn")
    torch.set_grad_enabled(False)
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert state.restore() == [
        f"HOME is None, was {home!r}",
        "the working directory is None",
        "torch's default dtype: torch.float64",
        "torch's deterministic algorithms: True",
        "torch's gradients: False",
        "torch's matmul precision: high",
    ]
    assert state.restore() == []
    assert (os.environ["HOME"], Path.cwd()) == (home, state.directory)
    assert torch.is_grad_enabled() and torch.get_default_dtype() == torch.float32


def test_a_reason_is_allowed_from_its_beginning_only() -> None:
    assert is_allowed("Skipped: needs root")
    assert is_allowed("Skipped: VIBELITE_BENCHMARK_DATA is not set: the directory of ...")
    assert not is_allowed("Skipped: flaky")
    assert not is_allowed("Skipped: flaky where it needs root")
