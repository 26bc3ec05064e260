"""summary.json has the rows of finished evaluations in order; the tables print names as text."""

import json

import pytest

from tests.report.conftest import result_row
from vibelite.report.summary import print_summary, write_summary
from vibelite.run_dir import RunDir, write_json_atomic


def evaluate(run, index, rows, *, is_finished=True):
    stage_dir = run.stage(index, f"evaluate-{index}")
    write_json_atomic(stage_dir.path / "results.json", rows)
    if is_finished:
        stage_dir.finish(models={})


@pytest.fixture
def run(tmp_path):
    return RunDir(tmp_path)


@pytest.fixture
def table_text(run, capsys):
    def read():
        print_summary(write_summary(run.path))
        return capsys.readouterr().out

    return read


def test_rows_keep_their_values(run):
    evaluate(run, 1, [result_row("sft", 0.25)])
    summary = write_summary(run.path)
    assert json.loads((run.path / "summary.json").read_text()) == summary
    assert summary["results"] == [result_row("sft", 0.25)]


def test_a_later_evaluation_replaces_the_row_at_its_place(run):
    evaluate(run, 2, [result_row("base", 0.0), result_row("sft", 0.2), result_row("fuse", 0.3)])
    evaluate(run, 10, [result_row("sft", 0.25), result_row("mgpo", 0.5)])
    rows = write_summary(run.path)["results"]
    assert [(row["stage"], row["pass_at_1"]) for row in rows] == [
        ("base", 0.0), ("sft", 0.25), ("fuse", 0.3), ("mgpo", 0.5),
    ]  # fmt: skip


def test_benchmarks_are_apart_and_an_evaluation_under_way_does_not_count(run):
    evaluate(run, 1, [result_row("sft", 0.2), result_row("sft", 0.1, benchmark="aime25")])
    evaluate(run, 2, [result_row("mgpo", 0.5)], is_finished=False)
    rows = write_summary(run.path)["results"]
    assert [(row["stage"], row["benchmark"], row["pass_at_1"]) for row in rows] == [
        ("sft", "held-out", 0.2), ("sft", "aime25", 0.1),
    ]  # fmt: skip


def test_a_run_without_evaluation_has_no_results(run, table_text):
    assert "no evaluate stage has finished" in table_text()
    summary = json.loads((run.path / "summary.json").read_text())
    assert (summary["results"], summary["health"]) == ([], [])


def test_table_shows_interval_and_sub_domains_in_eighty_columns(run, table_text):
    evaluate(run, 1, [result_row("sft", 0.25), result_row("mgpo", 0.5)])
    text = table_text()
    assert "held-out: 256 problems, 8 samples each" in text
    assert "50.0 [46.0, 54.0]" in text
    assert text.count("25.0 / 50.0") == 4, "one cell per sub-domain"
    assert "$0.012" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_single_sub_domain_has_no_table_of_its_own(run, table_text):
    row = result_row("sft", 0.25)
    evaluate(run, 1, [row | {"subdomains": {"all": row["subdomains"]["algebra"]}}])
    text = table_text()
    assert "25.0 [21.0, 29.0]" in text and "sub-domain" not in text


def test_without_a_price_there_is_no_money_column(run, table_text):
    evaluate(run, 1, [result_row("sft", 0.25) | {"usd": None}])
    assert "$" not in table_text()
