"""What a recipe may change while its run goes on, and what is said of the rest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.recipe.texts import write_recipe
from tests.survival import RECIPE, outcome, run_command
from vibelite.errors import RecipeError
from vibelite.pipeline import save_recipe
from vibelite.recipe.load import load_recipe
from vibelite.resume import is_changed, require_same_run
from vibelite.run_dir import RunDir


@pytest.fixture
def begun(tmp_path: Path) -> RunDir:
    """A run of the small recipe that has just begun."""
    run = RunDir(tmp_path / "run")
    path = write_recipe(tmp_path)
    save_recipe(load_recipe(path, []), path, run)
    return run


def go_on(run: RunDir, *overrides: str) -> None:
    recipe = load_recipe(run.path.parent / "recipe.yaml", overrides)
    require_same_run(recipe, run.path, run)


@pytest.mark.parametrize(
    "override",
    [
        "stages.mgpo.tokens_per_micro_batch=64",
        "stages.sft.tokens_per_micro_batch=64",
        "training.activations=checkpoint",
        "training.mlp_tile_tokens=16",
        "verification.num_workers=1",
        "stages.mgpo.checkpoint_every=1",
        "checkpoint.keep_last=5",
        "budget.hours=1",
        "cost.usd_per_hour=2",
        "tracking=[tensorboard]",
        "num_gpus=2",
    ],
)
def test_memory_speed_and_price_may_change(begun: RunDir, override: str) -> None:
    go_on(begun, override)
    assert not is_changed(load_recipe(begun.path.parent / "recipe.yaml", [override]), begun)


@pytest.mark.parametrize(
    ("overrides", "changes"),
    [
        (["stages.mgpo.problems_per_step=1"], ["stages.mgpo.problems_per_step: 16 -> 1"]),
        (["stages.mgpo.num_steps=9"], ["stages.mgpo.num_steps: 5 -> 9"]),
        (["stages.sft.checkpoint_every=2"], ["stages.sft.checkpoint_every: 5 -> 2"]),
        (["training.dtype=bfloat16"], ["training.dtype: float32 -> bfloat16"]),
        (["stages.evaluate.name=last"], ["stages.evaluate.name: evaluate -> last"]),
        (
            ["seed=3", "adapter={kind: lora}", "data.problems.train.num_problems=9"],
            ["seed: 0 -> 3", "adapter: null -> ", "data.problems.train.num_problems: 100 -> 9"],
        ),
    ],
)
def test_every_other_change_is_listed_with_the_way_on(
    begun: RunDir, overrides: list[str], changes: list[str]
) -> None:
    with pytest.raises(RecipeError) as refused:
        go_on(begun, *overrides)
    message = str(refused.value)
    assert message.startswith(f"{begun.path}: holds a run of a different recipe: ")
    assert all(change in message for change in changes), message
    assert "\n" not in message and "append a stage with start_from: mgpo" in message
    assert "micro_batch" not in message


def test_a_run_from_before_a_setting_existed_goes_on_with_its_default(begun: RunDir) -> None:
    values = YAML(typ="safe").load(begun.resolved_recipe_path.read_text())
    (mgpo,) = (stage for stage in values["stages"] if stage["kind"] == "mgpo")
    del mgpo["updates_per_rollout"], mgpo["sampling"]["temperature"]
    del values["data"]["decontaminate"]
    with open(begun.resolved_recipe_path, "w") as file:
        YAML().dump(values, file)
    go_on(begun)
    assert not is_changed(load_recipe(begun.path.parent / "recipe.yaml", []), begun)
    change = "different recipe: stages.mgpo.updates_per_rollout: 1 -> 2\\."
    with pytest.raises(RecipeError, match=change):
        go_on(begun, "stages.mgpo.updates_per_rollout=2")


def test_a_setting_that_no_longer_exists_is_told(begun: RunDir) -> None:
    with open(begun.resolved_recipe_path, "a") as file:
        file.write("sampler: fast\n")
    with pytest.raises(RecipeError, match="different recipe: sampler: fast -> none\\."):
        go_on(begun)


def test_a_stage_that_is_gone_is_named_and_one_before_others_is_no_appended_one(begun) -> None:
    path = begun.path.parent / "recipe.yaml"
    values = YAML(typ="safe").load(path.read_text())
    for stages, change in (
        (values["stages"][:-1], "stages.export: export -> none"),
        (values["stages"][:4] + [values["stages"][5]], "stages.evaluate.kind: evaluate -> export"),
    ):
        with open(path, "w") as file:
            YAML().dump(values | {"stages": stages}, file)
        with pytest.raises(RecipeError, match=change):
            go_on(begun)


def test_a_finished_run_goes_on_with_an_appended_stage_and_another_batch(
    nano_run, whole, tmp_path, capsys
) -> None:
    run_dir = shutil.copytree(nano_run, tmp_path / "run")
    values = YAML(typ="safe").load(RECIPE.read_text())
    (mgpo,) = (stage for stage in values["stages"] if stage["kind"] == "mgpo")
    more = {"name": "more", "start_from": "mgpo", "num_steps": 1, "tokens_per_micro_batch": 50}
    values["stages"].append(mgpo | more)
    recipe = tmp_path / "longer.yaml"
    with open(recipe, "w") as file:
        YAML().dump(values, file)
    ended = run_command(capsys, run_dir, recipe=recipe)
    assert ended.exit_code == 0, ended.stderr
    assert list(run_dir.glob("stages/*-more/checkpoints/step-000001/model.safetensors"))
    assert outcome(run_dir)["weights"] == whole["weights"], "what was finished stays"
    # From now on it is part of the run.
    assert "stages.more: more -> none" in run_command(capsys, run_dir).message


def test_a_file_that_has_changed_since_is_told(tmp_path, capsys) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "1+1=?", "answer": "2"}) + "\n")
    values = YAML(typ="safe").load(RECIPE.read_text())
    values["data"]["problems"]["held-out"] = {"source": "file", "path": "rows.jsonl"}
    values["stages"] = values["stages"][:1]
    recipe = tmp_path / "recipe.yaml"
    with open(recipe, "w") as file:
        YAML().dump(values, file)
    sets = ("stages.sft.num_steps=2",)
    assert run_command(capsys, tmp_path / "run", *sets, recipe=recipe).exit_code == 0
    ended = run_command(capsys, tmp_path / "run", *sets, recipe=recipe)
    assert (ended.exit_code, "warning" in ended.stderr) == (0, False)
    rows.write_text(json.dumps({"prompt": "1+2=?", "answer": "3"}) + "\n")
    ended = run_command(capsys, tmp_path / "run", *sets, recipe=recipe)
    assert ended.exit_code == 0
    assert "warning: data.problems.held-out.path: the file has changed since" in ended.stderr
