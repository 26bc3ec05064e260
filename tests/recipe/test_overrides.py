from pathlib import Path

import pytest

from tests.recipe.test_load import problems_of
from tests.recipe.texts import write_recipe
from vibelite.recipe.load import load_recipe
from vibelite.recipe.schema import Recipe
from vibelite.recipe.stage_section import EvaluateStage, MGPOStage, SFTStage


def load(tmp_path: Path, *overrides: str) -> Recipe:
    return load_recipe(write_recipe(tmp_path), overrides)


def test_stages_are_set_by_index_and_by_name(tmp_path: Path) -> None:
    recipe = load(tmp_path, "stages.0.num_steps=7", "stages.mgpo.optimizer.lr=2e-6")
    sft, mgpo = recipe.stage_named("sft"), recipe.stage_named("mgpo")
    assert isinstance(sft, SFTStage)
    assert isinstance(mgpo, MGPOStage)
    assert sft.num_steps == 7
    assert mgpo.optimizer.lr == 2e-6


def test_names_with_dots_are_found(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, line_28="  - kind: mgpo\n    name: mgpo.v2", line_37="")
    stage = load_recipe(path, ["stages.mgpo.v2.num_steps=9"]).stage_named("mgpo.v2")
    assert isinstance(stage, MGPOStage)
    assert stage.num_steps == 9


def test_values_are_yaml(tmp_path: Path) -> None:
    recipe = load(
        tmp_path,
        "stages.evaluate.k=[1, 4]",
        "stages.evaluate.sampling={max_new_tokens: 9, temperature: 0.5}",
        "stages.evaluate.models.1=base",
    )
    stage = recipe.stage_named("evaluate")
    assert isinstance(stage, EvaluateStage)
    assert stage.k == [1, 4]
    assert (stage.sampling.max_new_tokens, stage.sampling.temperature) == (9, 0.5)
    assert stage.models == ["base", "base"]


def test_a_section_that_is_not_there_is_made(tmp_path: Path) -> None:
    assert load(tmp_path, "cost.usd_per_hour=2.5").cost.usd_per_hour == 2.5


def test_the_last_of_two_overrides_wins(tmp_path: Path) -> None:
    assert load(tmp_path, "seed=1", "seed=2").seed == 2


def test_an_override_leaves_sections_that_share_an_anchor_alone(tmp_path: Path) -> None:
    recipe = load(tmp_path, "stages.mgpo.sampling.max_new_tokens=5")
    evaluate = recipe.stage_named("evaluate")
    assert isinstance(evaluate, EvaluateStage)
    assert evaluate.sampling.max_new_tokens == 32


WRONG_OVERRIDES = {
    "stages.mgpo.lr=x": "unknown key; did you mean 'optimizer.lr'?",
    "stages.mgpo.num_steps=x": "must be a whole number, not 'x'",
    "stages.mgpo.num_steps=": "must be a whole number, not null",
    "stages.3.num_steps=0": "stages.mgpo.num_steps: must be greater than 0, not 0",
    "stages.mpgo.num_steps=5": "stages has no 'mpgo'; did you mean 'mgpo'?",
    "stages.evaluate.benchmarks.1=test": "stages.evaluate.benchmarks has no '1'; known: 0",
    "seed.x=1": "seed is a value, it has no 'x'",
    "seed": "must be KEY=VALUE, for instance stages.mgpo.num_steps=5",
    "stages..num_steps=5": "must be KEY=VALUE, for instance stages.mgpo.num_steps=5",
    "stages.evaluate.benchmarks=[tst]": "stages.evaluate.benchmarks.0: there is no 'tst' in "
    "data.problems; did you mean 'test'?",
    "cost.usd_per_hour=-1": "must be greater than 0, not -1",
    "stages.fuse.start_from=prob": "there is no stage 'prob' before this one; did you mean "
    "'probe'?",
}


@pytest.mark.parametrize("override", WRONG_OVERRIDES)
def test_a_wrong_override_is_named_as_it_was_written(override: str, tmp_path: Path) -> None:
    expected = f"--set {override}: {WRONG_OVERRIDES[override]}"
    assert problems_of(write_recipe(tmp_path), override) == [expected]


def test_an_override_that_is_not_yaml_is_refused(tmp_path: Path) -> None:
    (problem,) = problems_of(write_recipe(tmp_path), "seed=[1,")
    assert problem.startswith("--set seed=[1,: the value is not YAML: ")
