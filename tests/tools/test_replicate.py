"""A run made again from its manifest: bit by bit here, and what is said where it differs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from vibelite.cli import app
from vibelite.errors import DataError, RecipeError
from vibelite.pipeline import run_pipeline
from vibelite.recipe.load import load_recipe
from vibelite.run_dir import RunDir, read_jsonl
from vibelite.storage import sha256_of
from vibelite.tools.replicate import environment_changes

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = Path(__file__).parents[1] / "integration" / "nano.yaml"
SMALLER = ["stages.sft.num_steps=4", "stages.mgpo.num_steps=2", "stages.probe.num_samples=2"]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A finished run, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    directory = tmp_path_factory.mktemp("run") / "original"
    recipe = load_recipe(RECIPE, [*SMALLER, "seed=3"])
    run_pipeline(recipe, recipe_path=RECIPE, run_dir=directory)
    torch.set_num_threads(threads)
    yield directory


@pytest.fixture
def manifest(original):
    return original / "manifest.json"


def mailed(original: Path, directory: Path, **values: Any) -> Path:
    """A copy of the manifest, alone in a directory, with other values."""
    directory.mkdir()
    path = directory / "manifest.json"
    path.write_text(json.dumps(json.loads((original / "manifest.json").read_text()) | values))
    return path


def replicate(manifest: Path, out: Path, *options: str):
    return CliRunner().invoke(app, ["replicate", str(manifest), "--out", str(out), *options])


def test_a_replica_of_a_mailed_manifest_equals_the_original_bit_by_bit(original, tmp_path):
    replica = tmp_path / "replica"
    alone = replicate(mailed(original, tmp_path / "mailed"), replica)
    assert alone.exit_code == 0, alone.output
    assert f"{tmp_path / 'mailed'}: the first run is not here" in alone.stdout
    for stage in ("sft", "fuse", "mgpo"):
        first, second = (run_dir_models(path, stage) for path in (original, replica))
        assert first == second and first
    steps = [without_speeds(path, "mgpo") for path in (original, replica)]
    assert steps[0] == steps[1] and len(steps[0]) == 2
    # The replica is finished: with the first run beside its manifest the two are only compared.
    result = replicate(original / "manifest.json", replica)
    assert result.exit_code == 0, result.output
    assert "same program and processor\nthe final weights are the same\n" in result.stdout
    differences = json.loads(replicate(original / "manifest.json", replica, "--json").stdout)
    assert differences["same_weights"] is True and differences["environment"] == []
    assert {one["difference"] for one in differences["differences"]} == {0.0}
    # One bit more matters.
    (weights,) = (replica / "export").glob("*.safetensors")
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    result = replicate(original / "manifest.json", replica)
    assert result.exit_code == 1 and "the final weights differ" in result.stdout


def run_dir_models(run_dir: Path, stage: str) -> dict[str, str]:
    """SHA-256 of the weights of a stage's models, by name."""
    models = RunDir(run_dir).find_stage(stage).models()
    return {
        f"{name}/{path.name}": sha256_of(path)
        for name, model in models.items()
        for path in model.glob("*.safetensors")
    }


def without_speeds(run_dir: Path, stage: str) -> list[dict[str, Any]]:
    """The metrics of a stage's steps, but for those that say how fast something was."""
    rows = read_jsonl(RunDir(run_dir).find_stage(stage).steps_path)
    speeds = ("seconds", "_per_second")
    return [
        {name: value for name, value in row["metrics"].items() if not name.endswith(speeds)}
        for row in rows
    ]


@pytest.mark.parametrize(
    ("other", "change"),
    [
        ({"versions": {"torch": "2.13.1"}}, "torch: 2.13.0 -> 2.13.1"),
        ({"num_threads": 2}, "num_threads: 1 -> 2"),
        ({"hardware": {"cpu": "another", "gpus": []}}, "cpu: one -> another"),
        ({"hardware": {"cpu": "one", "gpus": [{"name": "H100"}]}}, "GPUs: none -> H100"),
        ({"git": {"commit": "b"}}, "commit: a -> b"),
    ],
)
def test_what_can_change_a_number_is_told(other, change):
    first = {
        "git": {"commit": "a"}, "python": "3.11.9", "cuda": None, "num_threads": 1,
        "hardware": {"cpu": "one", "gpus": []}, "versions": {"torch": "2.13.0"},
    }  # fmt: skip
    assert environment_changes(first, first) == []
    assert environment_changes(first, first | other) == [change]


def test_data_that_changed_are_noticed_before_anything_runs(original, manifest, tmp_path):
    hashes = json.loads(manifest.read_text())["data_sha256"]
    changed = hashes | {"held-out": "0" * 64}
    other = mailed(original, tmp_path / "mailed", data_sha256=changed)
    result = replicate(other, tmp_path / "replica")
    assert isinstance(result.exception, DataError)
    assert "data sets held-out: their content is not that" in str(result.exception)
    assert not (tmp_path / "replica" / "base").exists()


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_what_is_no_manifest_is_refused(text, tmp_path):
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
