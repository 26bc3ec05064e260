import json
from pathlib import Path

import pytest

from tests.recipe.test_load import problems_of
from tests.recipe.texts import write_recipe
from vibelite.recipe.load import load_recipe

WRONG_REFERENCES = {
    "two stages of one name": (
        {
            "line_37": "  - kind: sft\n    num_steps: 1\n    checkpoint_every: 1\n"
            "    optimizer: {lr: 1}"
        },
        "recipe.yaml:37:5: stages.sft.name: a stage called 'sft' is already at recipe.yaml:20:5; "
        "give one a `name`",
    ),
    "a stage called base": (
        {"line_37": "  - kind: export\n    name: base"},
        "recipe.yaml:38:5: stages.base.name: 'base' is the model that the recipe starts with",
    ),
    "start_from of no stage": (
        {"line_37": "  - kind: export\n    start_from: mpgo"},
        "recipe.yaml:38:5: stages.export.start_from: there is no stage 'mpgo' before this one; "
        "did you mean "
        "'mgpo'?",
    ),
    "a student of no stage": (
        {"line_37": "  - kind: distill\n    student: mpgo\n    sampling: {max_new_tokens: 4}"},
        "recipe.yaml:38:5: stages.distill.student: there is no stage 'mpgo' before this one; did "
        "you mean 'mgpo'?",
    ),
    "traces of no set and no stage": (
        {"line_37": "  - kind: filter\n    traces: trace\n    sampling: {max_new_tokens: 4}"},
        "recipe.yaml:38:5: stages.filter.traces: there is no 'trace' in data.traces; did you mean "
        "'traces'?",
    ),
    "a default that names no stage": (
        {"line_20": "  - kind: sft\n    name: warm-up", "line_35": ""},
        "recipe.yaml:25:5: stages.probe.start_from: there is no stage 'sft' (the default) before "
        "this one; known: "
        "warm-up",
    ),
    "start_from of a later stage": (
        {"line_20": "  - kind: sft\n    start_from: mgpo"},
        "recipe.yaml:21:5: stages.sft.start_from: there is no stage 'mgpo' before this one; known: "
        "base",
    ),
    "probe from the base model": (
        {"line_24": "  - kind: probe\n    start_from: base"},
        "recipe.yaml:25:5: stages.probe.start_from: there is no stage 'base' before this one; "
        "known: "
        "sft",
    ),
    "fuse from something else than a probe": (
        {"line_26": "  - kind: fuse\n    start_from: sft"},
        "recipe.yaml:27:5: stages.fuse.start_from: must name a stage of kind probe; 'sft' is of "
        "kind sft",
    ),
    "mgpo from a probe": (
        {"line_28": "  - kind: mgpo\n    start_from: probe"},
        "recipe.yaml:29:5: stages.mgpo.start_from: must name a stage of kind sft or fuse or mgpo; "
        "'probe' is of kind probe",
    ),
    "no such traces": (
        {"line_16": "    trace:"},
        "recipe.yaml:20:5: stages.sft.traces: there is no 'traces' (the default) in data.traces; "
        "did you mean 'trace'?",
    ),
    "no such problems": (
        {"line_30": "    problems: trian"},
        "recipe.yaml:30:5: stages.mgpo.problems: there is no 'trian' in data.problems; did you "
        "mean 'train'?",
    ),
    "no such benchmark": (
        {"line_34": "    benchmarks: [test, tset]"},
        "recipe.yaml:34:24: stages.evaluate.benchmarks.1: there is no 'tset' in data.problems; "
        "did you mean 'test'?",
    ),
    "no such model to evaluate": (
        {"line_35": "    models: [base, stf]"},
        "recipe.yaml:35:20: stages.evaluate.models.1: there is no stage 'stf' before this one; "
        "did you mean 'sft'?",
    ),
    "worked traces of no set": (
        {"line_18": "      problems: tarin"},
        "recipe.yaml:18:7: data.traces.traces.problems: there is no 'tarin' in data.problems; did "
        "you mean 'train'?",
    ),
    "worked traces of the test set": (
        {"line_18": "      problems: test"},
        "recipe.yaml:18:7: data.traces.traces.problems: 'test' is a 'test' set; training on it "
        "would spoil the evaluation: use one with `split: train`",
    ),
    "mgpo on the probing set": (
        {"line_30": "    problems: probe"},
        "recipe.yaml:30:5: stages.mgpo.problems: 'probe' is a 'probe' set; training on it would "
        "spoil the evaluation",
    ),
    "specialists chosen on the test set": (
        {"line_24": "  - kind: probe\n    problems: test"},
        "recipe.yaml:25:5: stages.probe.problems: 'test' is a 'test' set; choosing specialists on "
        "it would spoil the evaluation",
    ),
    "truncated sampling while training": (
        {"line_31": "    sampling: {max_new_tokens: 9, top_p: 0.9}"},
        "recipe.yaml:31:35: stages.mgpo.sampling.top_p: must be 1 while training: the loss needs "
        "logprobs of the whole distribution",
    ),
    "greedy sampling while training": (
        {"line_31": "    sampling: {max_new_tokens: 9, temperature: 0}"},
        "recipe.yaml:31:35: stages.mgpo.sampling.temperature: must be above 0 while training: "
        "greedy completions of a group are all equal",
    ),
    "a problem file that is not there": (
        {"line_14": "    test: {source: file, path: aime.parquet}"},
        "recipe.yaml:14:26: data.problems.test.path: there is no file or directory "
        "aime.parquet (paths are relative to the recipe)",
    ),
    "training on a benchmark": (
        {"line_14": "    test: {source: benchmark, name: aime25}", "line_30": "    problems: test"},
        "recipe.yaml:30:5: stages.mgpo.problems: 'test' is a benchmark; training on it would spoil "
        "the evaluation",
    ),
    "an unknown benchmark": (
        {"line_14": "    test: {source: benchmark, name: aime26}"},
        "recipe.yaml:14:31: data.problems.test.name: 'aime26' is not one of: aime24, aime25, "
        "hmmt25, math500, gpqa, lcb-v5, lcb-v6; did you mean 'aime25'?",
    ),
    "a benchmark's file that is not there": (
        {"line_14": "    test: {source: benchmark, name: aime25, path: none.parquet}"},
        "recipe.yaml:14:45: data.problems.test.path: there is no file or directory "
        "none.parquet (paths are relative to the recipe)",
    ),
    "a revision of a file": (
        {"line_14": "    test: {source: file, path: problems.jsonl, split: test}"},
        "recipe.yaml:14:5: data.problems.test: config, split, revision and local are for source: "
        "hub",
    ),
    "a path where the hub's name belongs": (
        {"line_14": "    test: {source: hub, path: ./own/rows}"},
        "recipe.yaml:14:25: data.problems.test.path: './own/rows' is a path of this machine; use "
        "`source: file`",
    ),
    "a directory where the hub's name belongs": (
        {"line_14": "    test: {source: hub, path: empty}"},
        "recipe.yaml:14:25: data.problems.test.path: 'empty' is a path of this machine; use "
        "`source: file`",
    ),
    "a table of an unknown kind": (
        {"line_14": "    test: {source: file, path: aime.xlsx}"},
        "recipe.yaml:14:26: data.problems.test.path: 'aime.xlsx' must end in .jsonl, .json, "
        ".csv, .parquet",
    ),
    "a reward file that is not there": (
        {"line_14": "    test: {source: hub, path: a/b, verifier: custom, reward: {file: r.py}}"},
        "recipe.yaml:14:63: data.problems.test.reward.file: there is no file or directory "
        "r.py (paths are relative to the recipe)",
    ),
    "a custom verifier without a reward": (
        {"line_14": "    test: {source: hub, path: a/b, verifier: custom}"},
        "recipe.yaml:14:36: data.problems.test.verifier: verifier: custom needs a reward (file, "
        "function), and no other has one",
    ),
    "wrong options of no choice": (
        {"line_14": "    test: {source: hub, path: a/b, columns: {incorrect: [b]}}"},
        "recipe.yaml:14:46: data.problems.test.columns.incorrect: only for verifier: choice, and "
        "this one is math",
    ),
    "a trace file that is not there": (
        {"line_17": "      source: file", "line_18": "      path: traces.jsonl"},
        "recipe.yaml:18:7: data.traces.traces.path: there is no file or directory "
        "traces.jsonl (paths are relative to the recipe)",
    ),
    "a copy of a hub data set that is not there": (
        {"line_14": "    test: {source: hub, path: a/b, local: rows}"},
        "recipe.yaml:14:36: data.problems.test.local: there is no file or directory "
        "rows (paths are relative to the recipe)",
    ),
    "a trace file of a mix that is not there": (
        {
            "line_17": "      source: mix",
            "line_18": "      sets: [{source: file, path: traces.jsonl}]",
        },
        "recipe.yaml:18:29: data.traces.traces.sets.0.path: there is no file or directory "
        "traces.jsonl (paths are relative to the recipe)",
    ),
    "worked traces of a file": (
        {
            "line_14": "    test: {source: file, path: problems.jsonl}",
            "line_18": "      problems: test",
        },
        "recipe.yaml:18:7: data.traces.traces.problems: worked solutions exist for reasoning_gym "
        "problems only, which 'test' has not",
    ),
    "training on the file that is tested on": (
        {
            "line_14": "    test: {source: file, path: problems.jsonl}\n"
            "    again: {source: file, path: problems.jsonl}",
            "line_30": "    problems: again",
        },
        "recipe.yaml:31:5: stages.mgpo.problems: 'again' is what the stage 'evaluate' tests on; "
        "train on other problems",
    ),
    "a model directory that is not there": (
        {"line_3": "model: {source: pretrained, path: ./qwen}"},
        "recipe.yaml:3:29: model.path: there is no file or directory qwen (paths are "
        "relative to the recipe)",
    ),
    "a directory that is no model": (
        {"line_3": "model: {source: pretrained, path: empty}"},
        "recipe.yaml:3:29: model.path: empty has no config.json: it is no model directory",
    ),
}


@pytest.mark.parametrize(
    ("lines", "message"), WRONG_REFERENCES.values(), ids=WRONG_REFERENCES.keys()
)
def test_a_wrong_reference_is_named_with_its_position(
    lines: dict[str, str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "problems.jsonl").write_text('{"prompt": "1 + 1", "answer": "2"}\n')
    (tmp_path / "empty").mkdir()
    assert message in problems_of(write_recipe(tmp_path, **lines))


@pytest.mark.parametrize("path", ["model", "Qwen/Qwen2.5-Math-1.5B"])
def test_a_model_directory_and_a_hub_name_are_accepted(path: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({}))
    model = f"model: {{source: pretrained, path: {path}}}"
    recipe = load_recipe(write_recipe(tmp_path, line_3=model))
    assert recipe.model.source == "pretrained"


def test_sft_may_go_on_from_another_sft_stage(tmp_path: Path) -> None:
    second = "  - {kind: sft, name: sft-2, start_from: sft, num_steps: 1, checkpoint_every: 1, "
    path = write_recipe(tmp_path, line_24=f"{second}optimizer: {{lr: 1}}}}\n  - kind: probe")
    assert load_recipe(path).stages[1].name == "sft-2"
