import re
from pathlib import Path

import pytest

from tests.recipe.texts import write_recipe
from vibelite.errors import RecipeError
from vibelite.recipe.load import dump_resolved, load_recipe
from vibelite.recipe.schema import Recipe
from vibelite.recipe.stage_section import EvaluateStage, MGPOStage, SFTStage


def problems_of(path: Path, *overrides: str) -> list[str]:
    """The lines of the error, with the recipe's directory taken out."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value).replace(f"{path.parent}/", "").splitlines()


def test_a_valid_recipe_loads_with_numbers_in_scientific_notation(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path))
    mgpo = recipe.stage_named("mgpo")
    assert isinstance(mgpo, MGPOStage)
    assert mgpo.optimizer.lr == 1e-6
    assert [stage.name for stage in recipe.stages] == [
        "sft",
        "probe",
        "fuse",
        "mgpo",
        "evaluate",
        "export",
    ]


# What is told, after the file -> what line makes it wrong.
WRONG_LINES: dict[str, dict[str, str]] = {
    "21:5: stages.sft.num_step: unknown key; did you mean 'num_steps'?": {
        "line_21": "    num_step: 10"
    },
    "29:5: stages.mgpo.lr: unknown key; did you mean 'optimizer.lr'?": {"line_29": "    lr: 5"},
    "20:5: stages.sft.checkpoint_every: this key is required": {"line_22": ""},
    "28:5: stages.mpgo.kind: 'mpgo' is not one of: sft, probe, fuse, mgpo, distill, filter, "
    "evaluate, export; did you mean 'mgpo'?": {"line_28": "  - kind: mpgo"},
    "26:5: stages.fuse.kind: this key is required (one of: sft, probe, fuse, mgpo, distill, "
    "filter, evaluate, export)": {"line_26": "  - name: fuse"},
    "8:7: data.problems.train.split: 'trian' is not one of: train, probe, test; did you mean "
    "'train'?": {"line_8": "      split: trian"},
    "9:7: data.problems.train.num_problems: must be greater than 0, not 0": {
        "line_9": "      num_problems: 0"
    },
    "23:17: stages.sft.optimizer.lr: must be a number, not '1e-3'": {
        "line_23": '    optimizer: {lr: "1e-3"}'
    },
    "2:1: seed: must be a whole number, not true": {"line_2": "seed: true"},
    "32:17: stages.mgpo.optimizer.lr: must be a finite number, not Infinity": {
        "line_32": "    optimizer: {lr: .inf}"
    },
    "11:18: data.problems.train.tasks.number.dataset: must be text, not 12: put it in quotes": {
        "line_11": "        number: {dataset: 12}"
    },
    "1:1: name: 'so small' is no name: a name has letters, digits and . _ -, and begins with a "
    "letter or digit": {"line_1": "name: so small"},
    "31:5: stages.mgpo.sampling: must be a section (a mapping of keys to values), not 32": {
        "line_31": "    sampling: 32"
    },
    "24:5: stages.probe: num_samples (4) must be at least k (8)": {
        "line_24": "  - kind: probe\n    num_samples: 4"
    },
    "3:1: model: hidden_size (128) must be num_heads (3) times an even number (rotary position "
    "embedding)": {"line_3": "model: {source: tiny, num_heads: 3}"},
    "2:1: rollout: tensor_parallel: 2 needs engine: vllm; with engine: transformers leave it out": {
        "line_2": "rollout: {tensor_parallel: 2}"
    },
    "2:1: rollout: vllm.sync: alias needs whole tensors in the engine, and tensor_parallel: 2 "
    "leaves it slices; use auto": {
        "line_2": "rollout: {engine: vllm, tensor_parallel: 2, vllm: {sync: alias}}"
    },
    "1:1: rollout.tensor_parallel: 2 must divide num_gpus, which is 3": {
        "line_2": "rollout: {engine: vllm, tensor_parallel: 2}\nnum_gpus: 3"
    },
}


@pytest.mark.parametrize("message", WRONG_LINES)
def test_a_wrong_line_is_named_with_its_position(message: str, tmp_path: Path) -> None:
    path = write_recipe(tmp_path, **WRONG_LINES[message])
    assert f"recipe.yaml:{message}" in problems_of(path)


def test_all_problems_are_reported_at_once_from_top_to_bottom(tmp_path: Path) -> None:
    """Those of keys and values; and, where these are right, those of names."""

    def positions(*overrides: str, **lines: str) -> list[str]:
        path = write_recipe(tmp_path, **lines)
        return [problem.split(": ")[0] for problem in problems_of(path, *overrides)]

    values = {"line_2": "seed: -1", "line_27": "    tail_average: x", "line_32": "    lr: 1"}
    places = ["2:1", "27:5", "28:5", "32:5"]  # at line 28 begins what lacks an optimizer now
    expected = ["--set sed=1", *(f"recipe.yaml:{place}" for place in places)]
    assert positions("sed=1", **values) == expected
    names = {
        "line_27": "    start_from: prob",
        "line_30": "    problems: trains",
        "line_34": "    benchmarks: [tests]",
    }
    assert positions(**names) == ["recipe.yaml:27:5", "recipe.yaml:30:5", "recipe.yaml:34:18"]


@pytest.mark.parametrize(
    ("line", "place", "problem"),
    [
        ("seed: [0", "3:6", "not YAML: expected ',' or ']', but got ':'"),
        (
            "seed: 0\nseed: 1",
            "3:1",
            r"not YAML: found duplicate key .seed. \(.*; leave one of the two",
        ),
        ("seed: 2026-13-01", "2:7", "not YAML: '2026-13-01' cannot be read: month must be in"),
        ("\tseed: 0", "2:1", "not YAML: .*; indent with spaces, not with tabs"),
        ("seed: 7: 8", "2:8", "not YAML: .*; put a value with a colon in quotes, and indent with"),
        ("seed: %7", "2:7", "not YAML: found character '%' .*; put the value in quotes"),
        ("x:\n  y: 1\n z: 2", "4:2", "not YAML: .*; indent this line as the others"),
        ('seed: "C:\\Users"', "2:12", "not YAML: .* backslash begins an escape; use single quotes"),
        ("seed: 0\n---", "3:1", "not YAML: but found another document"),
        ("seed: &a {b: *a}", "2:14", r"the alias \*a is inside what it stands for"),
    ],
)
def test_broken_yaml_is_told_with_its_position_and_what_to_do(
    line: str, place: str, problem: str, tmp_path: Path
) -> None:
    (told,) = problems_of(write_recipe(tmp_path, line_2=line))
    assert re.match(f"recipe.yaml:{place}: {problem}", told), told


@pytest.mark.parametrize(
    ("opened", "closed"), [("[", "]"), ("{a: ", "}")], ids=["lists", "mappings"]
)
def test_brackets_inside_each_other_without_end_are_named(
    opened: str, closed: str, tmp_path: Path
) -> None:
    path = write_recipe(tmp_path, line_2=f"seed: {opened * 2000}{closed * 2000}")
    column = 7 + 49 * len(opened)
    expected = f"recipe.yaml:2:{column}: nested more than 50 deep; close a bracket before"
    assert problems_of(path) == [expected]
    value = f"seed={opened * 60}{closed * 60}"
    (problem,) = problems_of(write_recipe(tmp_path), value)
    assert "the value is not YAML: " in problem and "nested more than 50 deep" in problem


@pytest.mark.parametrize(
    ("key", "value"),
    [("seed", 10**40), ("num_gpus", 2**53 + 1), ("stages.mgpo.group_size", 10**19)],
)
def test_integers_beyond_all_counting_are_refused(key: str, value: int, tmp_path: Path) -> None:
    (problem,) = problems_of(write_recipe(tmp_path), f"{key}={value}")
    assert problem.startswith(f"--set {key}={value}: must be less than or equal to {2**53}, not ")


@pytest.mark.parametrize("text", ["", "- 1\n", "seed\n"])
def test_a_recipe_must_be_a_mapping(text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    expected = "recipe.yaml:1:1: a recipe is a mapping of keys to values, such as `seed: 0`"
    assert problems_of(path) == [expected]


def test_a_missing_recipe_is_a_recipe_error(tmp_path: Path) -> None:
    assert problems_of(tmp_path / "none.yaml") == ["none.yaml: no such recipe"]


def test_an_unreadable_encoding_is_a_recipe_error(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"name: \xff\n")
    (problem,) = problems_of(path)
    assert problem == "recipe.yaml: not UTF-8 text (invalid start byte); save it as UTF-8"


def test_a_merge_key_brings_defaults_that_own_keys_replace(tmp_path: Path) -> None:
    path = write_recipe(
        tmp_path,
        line_23="    optimizer: &adamw {lr: 1e-3, weight_decay: 0.1}",
        line_32="    optimizer: {<<: *adamw, lr: 1e-6}",
    )
    recipe = load_recipe(path)
    sft, mgpo = recipe.stage_named("sft"), recipe.stage_named("mgpo")
    assert isinstance(sft, SFTStage)
    assert isinstance(mgpo, MGPOStage)
    assert (sft.optimizer.lr, sft.optimizer.weight_decay) == (1e-3, 0.1)
    assert (mgpo.optimizer.lr, mgpo.optimizer.weight_decay) == (1e-6, 0.1)


def test_the_resolved_recipe_loads_to_an_equal_one(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path), ["data.system_prompt='1e-6'", "name=no"])
    assert recipe.name == "no", "text in YAML 1.2"
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(dump_resolved(recipe))
    assert load_recipe(resolved) == recipe
    assert "maxent_lambda: 1.0" in resolved.read_text()


def test_the_schema_describes_every_stage_kind_and_key() -> None:
    schema = Recipe.model_json_schema()
    mgpo = schema["$defs"]["MGPOStage"]["properties"]
    assert mgpo["group_size"]["minimum"] == 2
    assert mgpo["group_size"]["description"] == "Completions per problem, G."
    kinds = schema["properties"]["stages"]["items"]["discriminator"]["mapping"]
    assert set(kinds) == {"sft", "probe", "fuse", "mgpo", "distill", "filter", "evaluate", "export"}


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


def test_a_section_that_is_not_there_is_made_and_the_last_of_two_overrides_wins(tmp_path) -> None:
    assert load(tmp_path, "cost.usd_per_hour=1", "cost.usd_per_hour=2.5").cost.usd_per_hour == 2.5


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
