"""The run of one process that all others are compared with."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.rank_runs import run_curve


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of one process."""
    run_dir = tmp_path_factory.mktemp("alone") / "curve-1"
    row = run_curve(1, run_dir)
    assert row.get("status") != "failed", row["text"]
    return run_dir
