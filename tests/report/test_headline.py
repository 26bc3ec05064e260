"""What stands first on a page and in a terminal: how a run ended, and what was wrong with it."""

import re

import pytest
from typer.testing import CliRunner

from tests.report.conftest import result_row
from vibelite.cli import app
from vibelite.errors import BudgetReached, DiskFull, Interrupted, NothingLearned
from vibelite.report.build import page_of
from vibelite.report.headline import find_problems, headline
from vibelite.report.summary import write_summary
from vibelite.run_dir import write_json_atomic
from vibelite.run_lock import locked
from vibelite.telemetry.run_state import write_end, write_state

ALL_CUT = {"completion/truncated": 1.0, "groups/signal": 0.0, "reward/mean": 0.0}


@pytest.fixture
def begun(make_run):
    """A run in the middle of its MGPO."""
    builder = make_run()
    builder.base()
    builder.sft()
    builder.mgpo(num_steps=7)
    write_state(builder.run.path, "running")
    return builder


def first_block(path):
    """The text of the page's first block under the title."""
    (block,) = re.findall(r'<div class="state.*?</div>', page_of([path]), re.DOTALL)[:1]
    return " ".join(re.sub("<.*?>", "", block).split())


def test_a_running_run_says_where_it_is_and_how_long_it_takes(begun):
    with locked(begun.run.path):
        told = str(headline(begun.run.path))
        assert first_block(begun.run.path).startswith("Running, mgpo step 7 of 40, last step")
    assert re.fullmatch(r"Running, mgpo step 7 of 40, last step .* s ago, 1 min \d\d s left", told)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (BudgetReached("$5 are spent"), "Stopped by its budget after mgpo step 7 of 40, ended"),
        (Interrupted("stopped by SIGTERM"), "Stopped after mgpo step 7 of 40, ended"),
        (NothingLearned("nothing"), "Failed after mgpo step 7 of 40 (exit code 1), ended"),
        (DiskFull("the disk is full"), "Failed after mgpo step 7 of 40 (exit code 5), ended"),
        (None, "Killed after mgpo step 7 of 40, last sign of life"),
    ],
)
def test_an_end_is_told_first_with_its_reason(begun, error, said):
    if error is not None:
        write_end(begun.run.path, error, ["mgpo"])
    block = first_block(begun.run.path)
    assert block.startswith(said)
    assert block.lower().endswith(("goes on", "to go on", str(error)))
    done = CliRunner().invoke(app, ["samples", str(begun.run.path)], catch_exceptions=False)
    assert done.stdout.startswith(said)


def test_what_is_wrong_is_a_banner_as_long_as_it_holds(begun):
    recorder = begun.recorder("mgpo", begun.run.find_stage("mgpo"))
    for step in (8, 9):
        begun.spend(rollout=1)
        recorder.record_step(step, begun.mgpo_metrics(step) | ALL_CUT)
    found = find_problems(begun.run.path, [])
    assert [(one.cause, one.when, one.is_over) for one in found] == [
        ("cut off", "mgpo, 2 steps from 8 to 9", False),
        ("no signal", "mgpo, step 9", False),
    ]
    page = page_of([begun.run.path])
    assert page.index("100% of the completions are cut off") < page.index('<ul class="chips">')
    recorder.record_step(10, begun.mgpo_metrics(10) | {"groups/signal": 0.5})
    assert {one.is_over for one in find_problems(begun.run.path, [])} == {True}
    assert "What was wrong for a while" in page_of([begun.run.path])


def test_a_stage_s_warning_and_a_cut_off_evaluation_are_told_too(begun):
    recorder = begun.recorder("sft", begun.run.find_stage("sft"))
    recorder.warn("traces dropped", "58 of 60 traces were left out")
    stage = begun.run.stage(4, "evaluate")
    row = result_row("mgpo", 0.0) | {"truncated": 0.95}
    write_json_atomic(stage.path / "results.json", [row])
    stage.finish(models={})
    health = write_summary(begun.run.path)["health"]
    assert [(one["stage"], one["cause"]) for one in health] == [
        ("sft", "traces dropped"),
        ("evaluation on held-out", "cut off"),
    ]
    assert "95% of the answers of mgpo" in health[1]["message"]
