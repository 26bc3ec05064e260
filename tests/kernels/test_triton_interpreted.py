"""Runs the Triton head's tests on Triton's interpreter, in a child process.

The interpreter is chosen by a variable that Triton reads when it is imported, and other tests
import Triton without it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize("name", ["linear_logprobs", "gradients", "fused_loss", "active_columns"])
def test_triton_head_passes_on_the_interpreter(name: str) -> None:
    pytest.importorskip("triton")
    module = HERE / f"test_{name}.py"
    child = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(module)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert child.returncode == 0, child.stdout[-4000:] + child.stderr[-2000:]
    assert " passed" in child.stdout
