"""What a run took to reach a goal."""

import json
import shutil

import pytest

from benchmarks.speedrun import evaluated, main
from vibelite.telemetry.ledger import run_cost


def test_everything_up_to_the_evaluation_that_shows_the_goal_is_paid_for(nano_run, tmp_path):
    """At $36 an hour: a cent a second."""
    run = tmp_path / "run"
    shutil.copytree(nano_run, run)
    for path in (run / "ledger").glob("*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        for line in lines:
            if line["kind"] == "price":
                line["price"] = {"usd_per_hour": "36", "source": ""}
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = evaluated(run, 0.0, -1.0)
    total, _ = run_cost(run / "ledger")
    after = sum(run_cost(run / "ledger", stage)[0] for stage in ("export", "report"))
    assert rows[-1]["seconds"] == pytest.approx(total - after, rel=0.05)
    assert rows[-1]["seconds"] <= total - after + 1e-6
    assert rows[-1]["usd"] == pytest.approx(rows[-1]["seconds"] / 100, rel=1e-3)
    assert [row["seconds"] for row in rows] == sorted({row["seconds"] for row in rows})


def test_the_record_is_the_first_model_at_the_goal(nano_run, tmp_path, capsys):
    rows = evaluated(nano_run, 0.0, -1.0)
    best = max(row["pass_at_1"] for row in rows)
    first = next(row for row in rows if row["pass_at_1"] == best)
    out = tmp_path / "speedrun.json"
    assert main([str(nano_run), "--goal", str(best), "--low", "-1", "--out", str(out)]) == 0
    assert json.loads(out.read_text())["record"]["model"] == first["model"]
    assert "yes" in capsys.readouterr().out
    low = str(first["pass_at_1_ci"][0])  # an interval that begins there does not begin above it
    assert main([str(nano_run), "--goal", str(best), "--low", low, "--out", str(out)]) == 1
    assert json.loads(out.read_text())["record"] is None


def test_a_run_without_an_evaluation_is_refused(nano_run, tmp_path, capsys):
    shutil.copytree(nano_run, tmp_path / "run")
    for path in (tmp_path / "run").glob("stages/*-evaluate/results.json"):
        path.unlink()
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / "run")])
    assert ended.value.code == 2
    assert "no finished evaluation" in capsys.readouterr().err
