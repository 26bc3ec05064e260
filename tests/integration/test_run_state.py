"""What a whole run leaves behind of how it ended and of what was wrong with it."""

from pathlib import Path

import pytest

from vibelite.errors import NothingLearned, VibeLiteError
from vibelite.pipeline import run_pipeline
from vibelite.recipe.load import load_recipe
from vibelite.run_dir import read_json
from vibelite.telemetry.run_state import read_state

NANO = Path(__file__).with_name("nano.yaml")
# One token is an end by chance alone, once in hundreds.
CUT_OFF = "stages.mgpo.sampling.max_new_tokens=1"


def run(directory: Path, *overrides: str, until: str = "mgpo") -> None:
    recipe = load_recipe(NANO, list(overrides))
    run_pipeline(recipe, recipe_path=NANO, run_dir=directory, until=until)


def test_a_run_that_learns_nothing_ends_with_its_reason_and_everything_saved(
    tmp_path: Path,
) -> None:
    """All its completions are cut off, and it is not to go on for long; then it is."""
    directory = tmp_path / "run"
    with pytest.raises(NothingLearned, match=r"step 3: 3 steps in a row .*max_new_tokens"):
        run(directory, "budget.steps_without_signal=3", CUT_OFF)
    summary = read_json(directory / "summary.json")
    assert (summary["state"]["state"], summary["state"]["exit_code"]) == ("failed", 1)
    assert {row["cause"] for row in summary["health"]} == {"cut off", "no signal"}
    page = (directory / "report.html").read_text()
    assert page.index("Failed after mgpo step 3 of 4 (exit code 1)") < page.index("<nav>")
    assert list(directory.glob("stages/03-mgpo/resume/step-000003"))
    run(directory, "budget.steps_without_signal=0", CUT_OFF)
    state = read_state(directory)
    assert (state.state, state.exit_code) == ("stopped", 0)
    assert "before evaluate" in state.message


def test_an_error_is_in_the_report_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise VibeLiteError("the moon is in the wrong place")

    monkeypatch.setattr("vibelite.stages.sft.sft_step", refuse)
    with pytest.raises(VibeLiteError, match="moon"):
        run(tmp_path / "run", until="sft")
    assert read_state(tmp_path / "run").state == "failed"
    assert "The moon is in the wrong place" in (tmp_path / "run" / "report.html").read_text()
