"""A run goes on in another directory, and where its recipe and data are elsewhere."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

from ruamel.yaml import YAML

from tests.survival import RECIPE, at_step, outcome, run_command


def stop_in_mgpo(capsys, run_dir: Path, recipe: Path) -> None:
    with at_step(3, lambda: signal.raise_signal(signal.SIGTERM)):
        assert run_command(capsys, run_dir, recipe=recipe).exit_code == 75


def test_a_moved_run_goes_on_with_a_recipe_elsewhere_and_ends_the_same(tmp_path, capsys, whole):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    shutil.copy(RECIPE, here / "recipe.yaml")
    stop_in_mgpo(capsys, here / "run", here / "recipe.yaml")
    here.rename(there)
    (there / "recipe.yaml").rename(there / "nano.yaml")
    assert run_command(capsys, there / "run", recipe=there / "nano.yaml").exit_code == 0
    assert outcome(there / "run") == whole
    for path in (there / "run").rglob("*"):
        assert path.is_dir() or str(tmp_path).encode() not in path.read_bytes(), path


def recipe_with_file(directory: Path, benchmark: Path) -> Path:
    """The small recipe with a benchmark from a file."""
    values = YAML(typ="safe").load(RECIPE.read_text())
    values["data"]["problems"]["held-out"] = {"source": "file", "path": str(benchmark)}
    directory.mkdir()
    path = directory / "recipe.yaml"
    with open(path, "w") as file:
        YAML().dump(values, file)
    return path


def write_problems(path: Path, answer: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    rows = [{"prompt": f"{number}+1=?", "answer": str(number + answer)} for number in range(4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_data_may_be_elsewhere_but_not_be_others(tmp_path, capsys):
    first = recipe_with_file(tmp_path / "a", write_problems(tmp_path / "data-a" / "test.jsonl", 1))
    stop_in_mgpo(capsys, tmp_path / "run", first)
    changed = recipe_with_file(
        tmp_path / "b", write_problems(tmp_path / "data-b" / "test.jsonl", 2)
    )
    ended = run_command(capsys, tmp_path / "run", recipe=changed)
    assert ended.exit_code == 2
    assert "names another place for held-out, and what is there differs" in ended.message
    same = recipe_with_file(tmp_path / "c", write_problems(tmp_path / "data-c" / "test.jsonl", 1))
    assert run_command(capsys, tmp_path / "run", recipe=same).exit_code == 0
    # From now on the run is at home there.
    assert run_command(capsys, tmp_path / "run", recipe=same).exit_code == 0
    assert "data-c" in (tmp_path / "run" / "recipe.resolved.yaml").read_text()
