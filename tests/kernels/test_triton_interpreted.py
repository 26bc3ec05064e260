"""Runs the tests marked `interpreted` on Triton's interpreter, in a child process.

The interpreter is chosen by a variable that Triton reads when it is imported, and other tests
import Triton without it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

OPTIONS = ("-q", "-x", "-p", "no:cacheprovider", "-m", "interpreted and not gpu")


def test_the_triton_head_passes_on_the_interpreter() -> None:
    pytest.importorskip("triton")
    child = subprocess.run(
        [sys.executable, "-m", "pytest", *OPTIONS, str(Path(__file__).parent)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert child.returncode == 0, child.stdout[-4000:] + child.stderr[-2000:]
    assert " passed" in child.stdout
