"""Measurements in processes of their own: nothing is lost when one is stopped, nothing goes on."""

import os
import signal
import subprocess
import sys
import time

from benchmarks.child_process import ROOT, run_child
from benchmarks.rank_runs import is_running

# Writes a row with the id of a process of its own, and hangs.
HANGS = """
import json, subprocess, sys, time
child = subprocess.Popen(["sleep", "100"])
open(sys.argv[1], "w").write(json.dumps([child.pid]))
print("the first row")
time.sleep(100)
"""
# Runs the measurement above as a child, and waits for it.
NESTED = """
import sys
from pathlib import Path
from benchmarks.child_process import run_child
run_child([sys.executable, "-c", sys.argv[2], sys.argv[1]], Path(sys.argv[1]), seconds=100)
"""


def ended(pid: int) -> bool:
    deadline = time.monotonic() + 30
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_running(pid)


def test_at_the_limit_rows_are_kept_and_no_process_is_left(tmp_path, capfd):
    out = tmp_path / "rows.json"
    outcome = run_child([sys.executable, "-c", HANGS, str(out)], out, seconds=5.0)
    assert outcome.is_cut and outcome.failure.startswith("not done after 5 s")
    assert "the first row" in outcome.failure and "the first row" in capfd.readouterr().out
    (pid,) = outcome.result
    assert ended(pid)


def test_whoever_is_terminated_takes_its_measurement_along(tmp_path):
    out = tmp_path / "rows.json"
    process = subprocess.Popen([sys.executable, "-c", NESTED, str(out), HANGS], cwd=ROOT)
    while not out.exists() or not out.read_text():
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM
    assert ended(int(out.read_text().strip("[]")))


def test_a_process_that_outlives_its_measurement_is_ended(tmp_path):
    out = tmp_path / "rows.json"
    text = HANGS.replace("time.sleep(100)", "")
    outcome = run_child([sys.executable, "-c", text, str(out)], out, seconds=60.0, is_quiet=True)
    assert outcome.failure == "" and ended(outcome.result[0])


def test_what_ends_badly_says_why_and_an_earlier_result_is_not_its_own(tmp_path, capfd):
    out = tmp_path / "rows.json"

    def run(text: str):
        out.write_text('["of an earlier run"]')
        command = [sys.executable, "-c", text, str(out)]
        return run_child(command, out, seconds=60.0, environment={"WORD": "last"}, is_quiet=True)

    outcome = run("import os; print('the', os.environ['WORD'], 'words'); raise SystemExit(3)")
    assert outcome.failure == "exit code 3\nthe last words\n" and outcome.result is None
    assert run("print('nothing')").failure == "no result\nnothing\n"
    half = run("import sys; open(sys.argv[1], 'w').write('[1, 2')")
    assert "not JSON" in half.failure and half.result is None and not half.is_cut
    assert run_child(["no-such-python"], out, seconds=1.0).failure == "there is no no-such-python"
    assert capfd.readouterr().out == ""
