"""The suite of GPU measurements: what it runs exists, and a failure of one is not the end."""

import importlib.util
import json

import pytest

from benchmarks.gpu_suite import MEASUREMENTS, Measurement, run_all


def write_module(directory, name, text):
    (directory / f"{name}.py").write_text(text)


@pytest.mark.parametrize("one", MEASUREMENTS, ids=lambda one: one.name)
def test_every_measurement_is_a_module(one):
    assert importlib.util.find_spec(one.module) is not None


def test_all_of_them_fit_into_the_promised_time_but_for_what_is_cut():
    assert max(one.seconds for one in MEASUREMENTS) < 480


def test_a_failure_and_a_hang_are_reported_and_the_rest_goes_on(tmp_path, monkeypatch, capfd):
    write_module(tmp_path, "fails", "print('the last words'); raise SystemExit(3)")
    write_module(tmp_path, "forgets", "print('nothing')")
    write_module(
        tmp_path,
        "works",
        "import sys; open(sys.argv[sys.argv.index('--out') + 1], 'w').write('[7]'); print('rows')",
    )
    write_module(
        tmp_path,
        "hangs",
        "import sys, time; open(sys.argv[sys.argv.index('--out') + 1], 'w').write('[5]')\n"
        "print('the first row'); time.sleep(60)",
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    chosen = [
        Measurement(name, name, seconds=30.0 if name != "hangs" else 2.0)
        for name in ("fails", "hangs", "forgets", "works")
    ]
    out = tmp_path / "gpu.json"
    (tmp_path / "gpu-forgets.json").write_text('["of an earlier run"]')
    report = run_all(chosen, seconds=100.0, out=out)
    assert "exit code 3" in report["fails"]["failed"]
    assert "the last words" in report["fails"]["failed"]
    assert "not done" in report["hangs"]["failed"]
    assert "the first row" in report["hangs"]["failed"] and report["hangs"]["result"] == [5]
    assert "no result" in report["forgets"]["failed"] and "result" not in report["forgets"]
    assert report["works"]["result"] == [7] and "failed" not in report["works"]
    assert json.loads(out.read_text()) == report
    assert "rows" in capfd.readouterr().out


def test_nothing_starts_when_the_time_is_up(tmp_path):
    report = run_all([Measurement("never", "no.such.module")], seconds=0.0, out=tmp_path / "o.json")
    assert report["never"]["failed"] == "no time was left"
