import json
import random
import re
from statistics import fmean

import pytest
from typer.testing import CliRunner

from tests.report.conftest import result_row
from vibelite import cli
from vibelite.report.compare import compare_runs, gain, solved_counts, verdicts_of
from vibelite.report.summary import collect_results
from vibelite.run_dir import append_jsonl, write_json_atomic, write_text_atomic


def evaluated(builder, shares, *, index=4, name="evaluate", num_samples=8, model="mgpo"):
    """A finished evaluate stage in which each problem was solved in that share of its samples."""
    trained = builder.run.stage(3, model)
    trained.finish(models={model: trained.checkpoints / "step-000040"})
    stage = builder.run.stage(index, name)
    rows = [
        {
            "key": f"held-out--stages-03-{model}-checkpoints-step-000040",
            "problem_id": problem,
            "correct": sample < share * 8,
            "prompt": "2+2",
            "completion": "4",
            "reward": 1.0,
            "num_tokens": 1,
        }  # fmt: skip
        for problem, share in shares.items()
        for sample in range(num_samples)
    ]
    append_jsonl(stage.samples_path, rows)
    write_json_atomic(stage.path / "results.json", [result_row(model, fmean(shares.values()))])
    stage.finish(models={})
    recipe = f"name: x\nstages: [{{kind: evaluate, name: {name}}}]\n"
    write_text_atomic(builder.run.path / "recipe.resolved.yaml", recipe)
    return builder.run.path


def some_shares(seed, shift, num_problems=60):
    draw = random.Random(seed)
    return {
        f"p{index}": min(8, max(0, draw.randint(0, 8) + shift)) / 8 for index in range(num_problems)
    }


def test_counts_are_those_of_each_problem(make_run):
    path = evaluated(make_run(), {"a": 0.25, "b": 1.0})
    assert solved_counts(path) == {("mgpo", "held-out"): {"a": [2, 8], "b": [8, 8]}}


def test_models_are_found_by_their_directories_and_may_have_two_names(finished_run, make_run):
    counts = solved_counts(finished_run.run.path)
    models = {model for model, _ in counts}
    assert models == {row["stage"] for row in collect_results(finished_run.run.path)}
    assert all(counts.values())
    assert counts["probe-algebra", "held-out"] == counts["sft", "held-out"]


def test_the_last_evaluation_of_a_model_counts(make_run):
    builder = make_run()
    evaluated(builder, {"a": 0.25}, index=4, name="early")
    path = evaluated(builder, {"a": 0.75}, index=5, name="late")
    assert solved_counts(path) == {("mgpo", "held-out"): {"a": [6, 8]}}


def test_a_shift_of_every_problem_is_found_although_problems_differ_widely(make_run):
    first = evaluated(make_run("first"), some_shares(0, 0))
    second = evaluated(make_run("second"), some_shares(0, 1))
    (difference,) = compare_runs({"first": first, "second": second})
    ours, theirs = some_shares(0, 0), some_shares(0, 1)
    assert difference.difference == pytest.approx(fmean(theirs[p] - ours[p] for p in ours))
    assert difference.interval[0] > 0.08 and difference.is_distinguishable
    assert (difference.num_common, difference.num_problems) == (60, 60)


def test_unrelated_results_are_not_told_apart(make_run):
    first = evaluated(make_run("first"), some_shares(1, 0))
    second = evaluated(make_run("second"), some_shares(2, 0))
    (difference,) = compare_runs({"first": first, "second": second})
    assert not difference.is_distinguishable


def test_only_common_problems_are_compared(make_run):
    first = evaluated(make_run("first"), {"a": 0.5, "b": 0.5, "c": 1.0})
    second = evaluated(make_run("second"), {"a": 0.75, "b": 0.5, "d": 0.0})
    (difference,) = compare_runs({"first": first, "second": second})
    assert difference.difference == pytest.approx(0.125)
    assert (difference.num_common, difference.num_problems) == (2, 4)
    third = evaluated(make_run("third"), {"x": 0.5})
    assert compare_runs({"first": first, "third": third}) == []


def test_the_command_prints_a_table_and_writes_the_report(make_run, tmp_path):
    paths = [
        str(evaluated(make_run(name), some_shares(0, shift)))
        for name, shift in (("grpo", 0), ("mgpo", 2))
    ]
    page = tmp_path / "compare.html"
    done = CliRunner().invoke(cli.app, ["compare", *paths, "-o", str(page)])
    assert done.exit_code == 0, done.output
    assert "mgpo - grpo" in done.stdout and "yes" in done.stdout
    assert "Differences of Pass@1 on the same problems" in page.read_text()
    done = CliRunner().invoke(cli.app, ["compare", *paths, "--json"])
    (row,) = json.loads(done.stdout)["differences"]
    assert row["run"] == "mgpo" and row["difference"] > 0.1


def test_what_cannot_be_compared_is_said(make_run, tmp_path, capsys):
    path = str(evaluated(make_run(), {"a": 0.5}))
    for arguments, message in (
        ([path], "needs two run directories"),
        ([path, str(tmp_path / "none")], "not a run directory"),
    ):
        done = CliRunner().invoke(cli.app, ["compare", *arguments])
        assert message in str(done.exception)


def test_the_verdict_tells_gains_from_noise(finished_run):
    path = finished_run.run.path
    (said,) = verdicts_of(path, collect_results(path))
    assert said == (
        "mgpo on held-out: +0.0 points of Pass@1 (within noise) over fuse; +0.0 points of Pass@8 "
        "(within noise); +0.0 points of Pass@1 (within noise) over base"
    )
    better = {f"p{index}": [6, 8] for index in range(20)}
    worse = {f"p{index}": [index % 4, 8] for index in range(20)}
    assert re.fullmatch(
        r"\+56\.2 points of Pass@1 \(95%: \+5\d\.\d to \+6\d\.\d\)", gain(better, worse, 1)
    )
