"""One process at a time in a run directory, and no lock outlives its process."""

import signal
import subprocess
import sys

import pytest

from vibelite.errors import RecipeError
from vibelite.run_lock import locked

HOLDER = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from vibelite.run_lock import locked\n"
    "with locked(Path(sys.argv[1])):\n"
    "    print('locked', flush=True)\n"
    "    time.sleep(60)\n"
)


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdout.readline() == "locked\n"
    with pytest.raises(RecipeError, match=rf"in use by process {holder.pid} on "), locked(tmp_path):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(tmp_path):
        pass
