"""The suite of GPU measurements: what it runs exists, its time holds whatever its parts do, and a
failure of one is not the end.
"""

import importlib.util
import json

from benchmarks import gpu_suite
from benchmarks.child_process import Outcome
from benchmarks.gpu_suite import MEASUREMENTS, ON_REQUEST, Measurement, run_all, time_limit
from benchmarks.gpu_suite_table import suite_table

ENDS = {
    "hangs": Outcome(5.0, [5], "not done after 5 s\nthe first row", is_cut=True),
    "fails": Outcome(1.0, None, "exit code 3\nthe last words", is_cut=False),
    "lacks": Outcome(1.0, {"rows": [{"left_out": "needs a package"}]}, "", is_cut=False),
    "works": Outcome(1.0, [7], "", is_cut=False),
}


def test_every_measurement_is_a_module():
    for one in (*MEASUREMENTS, *ON_REQUEST):
        assert importlib.util.find_spec(one.module) is not None, one.name


def test_what_a_part_leaves_goes_to_the_next_and_the_whole_is_never_exceeded():
    shares = [one.share for one in MEASUREMENTS]
    assert time_limit([2, 1, 1], 1, seconds=400, left=350) == 250  # the first took 50 of its 200
    assert time_limit([2, 1, 1], 1, seconds=400, left=90) < 0  # the first did not let itself be cut
    for used in (0.0, 0.3, 1.0):
        left = 450.0
        for index, share in enumerate(shares):
            limit = time_limit(shares, index, seconds=450.0, left=left)
            assert limit >= 450.0 * share / sum(shares) - 1e-9
            left -= used * limit
        assert left >= -1e-9


def test_a_failure_and_a_hang_are_reported_and_the_rest_goes_on(tmp_path, monkeypatch):
    limits = {}

    def run_child(command, out, *, seconds):
        module = command[command.index("-m") + 1]
        assert command[-2:] == ["--out", str(out)] and out.name == f"gpu-{module}.json"
        limits[module] = seconds
        return ENDS[module]

    monkeypatch.setattr(gpu_suite, "run_child", run_child)
    out = tmp_path / "gpu.json"
    report = run_all([Measurement(name, name, 25.0) for name in ENDS], seconds=100.0, out=out)
    assert json.loads(out.read_text()) == report
    states = {name: row["state"] for name, row in report.items()}
    assert states == {"hangs": "cut", "fails": "failed", "lacks": "left out", "works": "done"}
    assert report["hangs"]["result"] == [5] and "result" not in report["fails"]
    assert report["works"]["result"] == [7] and "failed" not in report["works"]
    late = run_all([Measurement("late", "no.such.module", 1.0)], seconds=0.0, out=out)["late"]
    assert (late["failed"], late["state"]) == ("no time was left", "cut")
    assert limits["hangs"] < 26 and limits["works"] > 95, "what the others left"
    table = suite_table(report)
    assert "cut: hangs: not done after 5 s" in table
    assert "left out: lacks: needs a package" in table


def test_the_table_has_a_line_for_every_case_and_says_what_is_missing():
    part = {"state": "done", "seconds": 9.0, "limit": 110.0}
    case = {"cap_gb": 24, "optimizer": "adamw_cpu", "tokens": 4096, "context_bytes": 5 * 10**8}
    mgpo = [
        case | {"peak_bytes": 6 * 10**9, "gradient_seconds": 2.0, "update_seconds": 1.25},
        case | {"out_of_memory": True},
        case | {"left_out": "needs bitsandbytes"},
    ]
    cycle = {"total_seconds": 0.035, "used_bytes_awake": 8.2e9, "used_bytes_asleep": 4.3e9}
    vllm = {
        "cycles": cycle | {"measured_in_seconds": 1.0},
        "speed_64x1024": {"ours_tokens_per_second": [10.0, 20.0], "measured_in_seconds": 3.0},
        "again": {"failed": "AssertionError: pool", "measured_in_seconds": 0.1},
        "failed": "not done",
    }
    step = {"step_ms": 22.0, "step_workspace_mib": 289.0}
    heads = {"triton": step, "eager": {"step": "out of memory"}}
    kernel = {"tokens": 8192, "floor_ms": {"eight_products": 20.0}, "results": heads}
    results = {"mgpo": {"rows": mgpo}, "vllm": vllm, "kernel": {"cases": [kernel]}}
    report = {name: part | {"result": result} for name, result in results.items()}
    report["kernel"] |= {"state": "cut", "failed": "not done after 60 s\nwords"}
    text = suite_table(report)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for line in (
        "24 GB, adamw_cpu, 4096 6.50 2.000 + 1.250",
        "24 GB, adamw_cpu, 4096 does not fit",
        "24 GB, adamw_cpu, 4096 left out",
        "cycles 8.20 0.035 4.30 GB asleep",
        "speed_64x1024 3.000 ours 20 tokens/s",
        "again 0.100 failed",
        "triton, 8192 tokens 0.30 0.0220 1.10 of 8 products",
        "eager, 8192 tokens out of memory",
        "left out: mgpo: needs bitsandbytes",
        "failed: vllm: AssertionError: pool",
        "cut: kernel: not done after 60 s",
    ):
        assert line in lines, text
