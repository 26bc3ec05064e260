"""The suite of GPU measurements: what it runs exists, its time holds whatever its parts do, and a
failure of one is not the end.
"""

import importlib.util
import json
import sys

import pytest

from benchmarks.gpu_suite import MEASUREMENTS, Measurement, run_all, time_limit
from benchmarks.gpu_suite_table import suite_table

ROWS = "import sys; open(sys.argv[sys.argv.index('--out') + 1], 'w').write"
FAKES = {
    "fails": "print('the last words'); raise SystemExit(3)",
    "hangs": f"import time; {ROWS}('[5]')\nprint('the first row'); time.sleep(60)",
    "forgets": "print('nothing')",
    "lacks": f"""{ROWS}('{{"rows": [{{"left_out": "needs a package"}}]}}')""",
    "works": f"{ROWS}('[7]'); print('rows')",
}


@pytest.mark.parametrize("one", MEASUREMENTS, ids=lambda one: one.name)
def test_every_measurement_is_a_module(one):
    assert importlib.util.find_spec(one.module) is not None


def test_what_a_part_leaves_goes_to_the_next_and_the_whole_is_never_exceeded():
    shares = [one.share for one in MEASUREMENTS]
    assert sum(shares) == 450 < 480
    assert time_limit([2, 1, 1], 0, seconds=400, left=400) == 200
    assert time_limit([2, 1, 1], 1, seconds=400, left=350) == 250  # the first took 50 of its 200
    assert time_limit([2, 1, 1], 2, seconds=400, left=100) == 100
    assert time_limit([2, 1, 1], 1, seconds=400, left=90) < 0  # the first did not let itself be cut
    for used in (0.0, 0.3, 1.0):
        left = 450.0
        for index, share in enumerate(shares):
            limit = time_limit(shares, index, seconds=450.0, left=left)
            assert limit >= share - 1e-9
            left -= used * limit
        assert left >= -1e-9


def test_a_failure_and_a_hang_are_reported_and_the_rest_goes_on(tmp_path, monkeypatch, capfd):
    for name, text in FAKES.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    # Of 100 s: "fails" has 91 s and leaves nearly all of them to the rest.
    shares = {"hangs": 5.0, "fails": 91.0}
    chosen = [
        Measurement(name, name, shares.get(name, 1.333))
        for name in ("hangs", "fails", "forgets", "lacks", "works")
    ]
    out = tmp_path / "gpu.json"
    (tmp_path / "gpu-forgets.json").write_text('["of an earlier run"]')
    report = run_all(chosen, seconds=100.0, out=out)
    states = {name: row["state"] for name, row in report.items()}
    assert states == {
        "hangs": "cut", "fails": "failed", "forgets": "failed", "lacks": "left out",
        "works": "done",
    }  # fmt: skip
    assert "not done" in report["hangs"]["failed"]
    assert "the first row" in report["hangs"]["failed"] and report["hangs"]["result"] == [5]
    assert "exit code 3" in report["fails"]["failed"]
    assert "the last words" in report["fails"]["failed"]
    assert "no result" in report["forgets"]["failed"] and "result" not in report["forgets"]
    assert report["works"]["result"] == [7] and "failed" not in report["works"]
    assert report["works"]["limit"] > 1.333, "what the others left"
    assert json.loads(out.read_text()) == report
    assert "rows" in capfd.readouterr().out
    table = suite_table(report)
    assert "cut: hangs: not done after 5 s" in table
    assert "left out: lacks: needs a package" in table


def test_nothing_starts_when_the_time_is_up(tmp_path):
    (never,) = [Measurement("never", "no.such.module", 1.0)]
    report = run_all([never], seconds=0.0, out=tmp_path / "o.json")
    assert (report["never"]["failed"], report["never"]["state"]) == ("no time was left", "cut")


def test_the_table_has_a_line_for_every_case_and_says_what_is_missing():
    part = {"state": "done", "seconds": 9.0, "limit": 110.0}
    case = {
        "cap_gb": 24,
        "optimizer": "adamw_cpu",
        "dtype": "bfloat16",
        "gradient_dtype": "float32",
    }
    mgpo = [
        case | {"tokens": 4096, "peak_bytes": 6 * 10**9, "context_bytes": 5 * 10**8,
                "gradient_seconds": 2.0, "update_seconds": 1.25},
        case | {"tokens": 8192, "context_bytes": 5 * 10**8, "out_of_memory": True},
        case | {"left_out": "needs bitsandbytes"},
    ]  # fmt: skip
    cycle = {"total_seconds": 0.035, "used_bytes_awake": 8.2e9, "used_bytes_asleep": 4.3e9}
    vllm = {
        "cycles": cycle | {"measured_in_seconds": 1.0},
        "speed_64x1024": {"ours_tokens_per_second": [10.0, 20.0], "measured_in_seconds": 3.0},
        "again": {"failed": "AssertionError: pool", "measured_in_seconds": 0.1},
        "failed": "not done",
    }
    step = {"step_ms": 22.0, "step_workspace_mib": 289.0}
    kernel = {
        "cases": [
            {"tokens": 8192, "floor_ms": {"eight_products": 20.0},
             "results": {"triton": step, "eager": {"step": "out of memory"}}}
        ]
    }  # fmt: skip
    results = {"mgpo": {"rows": mgpo}, "vllm": vllm, "kernel": kernel}
    report = {name: part | {"result": result} for name, result in results.items()}
    report["kernel"] |= {"state": "cut", "failed": "not done after 60 s\nwords"}
    text = suite_table(report)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for line in (
        "24 GB, adamw_cpu, bfloat16, float32, 4096 6.50 3.250",
        "24 GB, adamw_cpu, bfloat16, float32, 8192 does not fit",
        "24 GB, adamw_cpu, bfloat16, float32 left out",
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


def test_unsloth_says_why_it_is_missing_or_trains(monkeypatch, tmp_path, one_thread):
    from benchmarks import gpu_unsloth
    from vibelite.errors import RecipeError
    from vibelite.models.load import load_policy

    def missing():
        raise RecipeError("needs the package")

    monkeypatch.setattr(gpu_unsloth, "import_unsloth", missing)
    out = tmp_path / "rows.json"
    monkeypatch.setattr(sys, "argv", ["gpu_unsloth", "--tiny", "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        gpu_unsloth.main()
    assert ended.value.code == 0
    assert json.loads(out.read_text())["rows"][0]["left_out"] == "needs the package"
    monkeypatch.setattr(gpu_unsloth, "import_unsloth", lambda: None)
    monkeypatch.setattr(gpu_unsloth, "load_with_unsloth", lambda path, *_, **__: load_policy(path))
    row = gpu_unsloth.measure(tiny=True)
    assert row["gradient_seconds"] > 0 and row["num_changed_tensors"] == 2 * 14, row
    monkeypatch.setattr(gpu_unsloth, "load_with_unsloth", lambda *_, **__: 1 / 0)
    assert "ZeroDivisionError" in gpu_unsloth.measure(tiny=True)["failed"]
