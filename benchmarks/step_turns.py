"""A training process that takes turns: it runs one step, says what it took, and waits.

Used by both sides of `step_vs_trl.py`; needs nothing but Python. On stdout the process prints a
line that starts with MARK for every step; on stdin it gets a line whenever it may go on.
"""

import json
import sys
import time

MARK = "step-of-training "


class Turns:
    """Wall-clock and processor seconds of every step, without the waiting between them."""

    def start(self):
        """Waits for the first turn."""
        self._report({"is_ready": True})

    def end_step(self):
        """Says what the step took, and waits for the next turn."""
        wall, cpu = self._since
        seconds = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        self._report(seconds)

    def _report(self, fields):
        print("\n" + MARK + json.dumps(fields), flush=True)
        sys.stdin.readline()
        self._since = time.perf_counter(), time.process_time()


def report_end(fields):
    """The last line of the process."""
    print("\n" + MARK + json.dumps(fields), flush=True)
