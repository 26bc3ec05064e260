"""Where the public benchmark files are, for the tests that need them: they are not part of the
repository. VIBELITE_BENCHMARK_DATA names their directory.
"""

import os
from pathlib import Path

import pytest

DIRECTORY = os.environ.get("VIBELITE_BENCHMARK_DATA", "")
NUM_PROBLEMS = {"aime": 30, "aime25": 30, "hmmt25": 30, "gpqa": 198}

needs_benchmark_files = pytest.mark.skipif(
    not DIRECTORY,
    reason="VIBELITE_BENCHMARK_DATA is not set: the directory of aime.parquet, aime25.parquet, "
    "hmmt25.parquet and gpqa.parquet",
)


def benchmark_file(name: str) -> Path:
    return Path(DIRECTORY) / f"{name}.parquet"
