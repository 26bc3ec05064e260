"""A run made again from its manifest alone: bit by bit here, and what is said where it differs."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vibelite.cli import app
from vibelite.errors import DataError, RecipeError
from vibelite.pipeline import run_pipeline
from vibelite.recipe.load import load_recipe

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = Path(__file__).parents[1] / "integration" / "nano.yaml"
SMALLER = ["stages.sft.num_steps=4", "stages.mgpo.num_steps=2", "stages.probe.num_samples=2"]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    """All that is kept of a run: its manifest, in a directory of its own."""
    directory = tmp_path_factory.mktemp("run")
    recipe = load_recipe(RECIPE, [*SMALLER, "seed=3"])
    run_pipeline(recipe, recipe_path=RECIPE, run_dir=directory / "original")
    kept = tmp_path_factory.mktemp("mailed") / "manifest.json"
    shutil.copy(directory / "original" / "manifest.json", kept)
    return kept


def changed(manifest: Path, path: Path, **values: Any) -> Path:
    """A copy of the manifest with other values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(json.loads(manifest.read_text()) | values))
    return path


def replicate(manifest: Path, out: Path, *options: str):
    return CliRunner().invoke(app, ["replicate", str(manifest), "--out", str(out), *options])


def test_a_replica_equals_the_original_bit_by_bit_and_then_any_bit_matters(manifest, tmp_path):
    result = replicate(manifest, tmp_path / "replica")
    assert result.exit_code == 0, result.output
    assert "bits are compared" in result.stdout
    assert "nothing differs" in result.stdout and "DIFFERS" not in result.stdout
    for shown in ("sft: metrics of 4 steps", "mgpo: metrics of 2 steps", "export: weights"):
        assert shown in result.stdout
    assert "mgpo on held-out: Pass@1" in result.stdout
    first, second = (
        json.loads(path.read_text())["outcome"]
        for path in (manifest, tmp_path / "replica" / "manifest.json")
    )
    assert first == second
    # The replica is finished: comparing again runs nothing. Now the original is said to be another.
    first["stages"]["mgpo"]["sha256"] = "0" * 64
    first["results"][0]["pass_at_1"] += 1e-9
    other = changed(manifest, tmp_path / "other" / "manifest.json", outcome=first)
    result = replicate(other, tmp_path / "replica", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert (found["same"], found["bitwise"], found["environment"]) == (False, True, [])
    wrong = [row["what"] for row in found["drift"] if not row["is_same"]]
    assert wrong == ["mgpo: metrics of 2 steps", "base on held-out: Pass@1"]


def test_data_that_changed_are_noticed_before_anything_runs(manifest, tmp_path):
    hashes = json.loads(manifest.read_text())["data_sha256"]
    other = changed(
        manifest, tmp_path / "manifest.json", data_sha256=hashes | {"held-out": "0" * 64}
    )
    result = replicate(other, tmp_path / "replica")
    assert isinstance(result.exception, DataError)
    assert "data sets held-out: their content is not that" in str(result.exception)
    assert not (tmp_path / "replica" / "base").exists()


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"resolved_recipe": {}}'])
def test_what_is_no_manifest_of_an_ended_run_is_refused(text, tmp_path):
    path = tmp_path / "manifest.json"
    path.write_text(text)
    result = replicate(path, tmp_path / "replica")
    assert isinstance(result.exception, RecipeError)
    assert str(path) in str(result.exception)
    assert not (tmp_path / "replica").exists()


def test_a_run_is_no_replica_of_itself(manifest):
    result = replicate(manifest, manifest.parent)
    assert isinstance(result.exception, RecipeError)
    assert "holds the run that is to be replicated" in str(result.exception)
