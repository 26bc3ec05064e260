import json
from pathlib import Path

import pytest

from tests.recipe.test_load import problems_of
from tests.recipe.texts import write_recipe
from vibelite.recipe.load import load_recipe

# What is told, after the file -> what line makes it wrong.
WRONG_REFERENCES: dict[str, dict[str, str]] = {
    "37:5: stages.sft.name: a stage called 'sft' is already at recipe.yaml:20:5; give one a "
    "`name`": {"line_37": "  - {kind: sft, num_steps: 1, checkpoint_every: 1, optimizer: {lr: 1}}"},
    "38:5: stages.base.name: 'base' is the model that the recipe starts with": {
        "line_37": "  - kind: export\n    name: base"
    },
    "38:5: stages.export.start_from: there is no stage 'mpgo' before this one; did you mean "
    "'mgpo'?": {"line_37": "  - kind: export\n    start_from: mpgo"},
    "38:5: stages.distill.student: there is no stage 'mpgo' before this one; did you mean "
    "'mgpo'?": {
        "line_37": "  - kind: distill\n    student: mpgo\n    sampling: {max_new_tokens: 4}"
    },
    "38:5: stages.filter.traces: there is no 'trace' in data.traces; did you mean 'traces'?": {
        "line_37": "  - kind: filter\n    traces: trace\n    sampling: {max_new_tokens: 4}"
    },
    "25:5: stages.probe.start_from: there is no stage 'sft' (the default) before this one; known:"
    " warm-up": {"line_20": "  - kind: sft\n    name: warm-up", "line_35": ""},
    "21:5: stages.sft.start_from: there is no stage 'mgpo' before this one; known: base": {
        "line_20": "  - kind: sft\n    start_from: mgpo"
    },
    "25:5: stages.probe.start_from: there is no stage 'base' before this one; known: sft": {
        "line_24": "  - kind: probe\n    start_from: base"
    },
    "27:5: stages.fuse.start_from: must name a stage of kind probe; 'sft' is of kind sft": {
        "line_26": "  - kind: fuse\n    start_from: sft"
    },
    "29:5: stages.mgpo.start_from: must name a stage of kind sft or fuse or mgpo; 'probe' is of "
    "kind probe": {"line_28": "  - kind: mgpo\n    start_from: probe"},
    "20:5: stages.sft.traces: there is no 'traces' (the default) in data.traces; did you mean "
    "'trace'?": {"line_16": "    trace:"},
    "30:5: stages.mgpo.problems: there is no 'trian' in data.problems; did you mean 'train'?": {
        "line_30": "    problems: trian"
    },
    "34:24: stages.evaluate.benchmarks.1: there is no 'tset' in data.problems; did you mean "
    "'test'?": {"line_34": "    benchmarks: [test, tset]"},
    "35:20: stages.evaluate.models.1: there is no stage 'stf' before this one; did you mean "
    "'sft'?": {"line_35": "    models: [base, stf]"},
    "18:7: data.traces.traces.problems: there is no 'tarin' in data.problems; did you mean "
    "'train'?": {"line_18": "      problems: tarin"},
    "18:7: data.traces.traces.problems: 'test' is a 'test' set; training on it would spoil the "
    "evaluation: use one with `split: train`": {"line_18": "      problems: test"},
    "30:5: stages.mgpo.problems: 'probe' is a 'probe' set; training on it would spoil the "
    "evaluation": {"line_30": "    problems: probe"},
    "25:5: stages.probe.problems: 'test' is a 'test' set; choosing specialists on it would spoil "
    "the evaluation": {"line_24": "  - kind: probe\n    problems: test"},
    "31:35: stages.mgpo.sampling.top_p: must be 1 while training: the loss needs logprobs of the "
    "whole distribution": {"line_31": "    sampling: {max_new_tokens: 9, top_p: 0.9}"},
    "31:35: stages.mgpo.sampling.temperature: must be above 0 while training: greedy completions "
    "of a group are all equal": {"line_31": "    sampling: {max_new_tokens: 9, temperature: 0}"},
    "14:26: data.problems.test.path: there is no file or directory aime.parquet (paths are "
    "relative to the recipe)": {"line_14": "    test: {source: file, path: aime.parquet}"},
    "30:5: stages.mgpo.problems: 'test' is a benchmark; training on it would spoil the "
    "evaluation": {
        "line_14": "    test: {source: benchmark, name: aime25}",
        "line_30": "    problems: test",
    },
    "14:31: data.problems.test.name: 'aime27' is not one of: aime24, aime25, aime26, hmmt25, "
    "brumo25, math500, gpqa, lcb-v5, lcb-v6; did you mean 'aime26'?": {
        "line_14": "    test: {source: benchmark, name: aime27}"
    },
    "23:5: stages.sft.traces: there is no 'other' in data.traces; known: traces": {
        "line_22": "    checkpoint_every: 5\n    traces: [traces, other]"
    },
    "25:5: stages.probe.problems: there is no 'other' in data.problems; known: train, probe, "
    "test": {"line_24": "  - kind: probe\n    problems: [probe, other]"},
    "28:20: stages.filter.start_from: there is no file or directory none (paths are relative "
    "to the recipe)": {
        "line_28": "  - {kind: filter, start_from: ./none, sampling: *sampling}\n  - kind: mgpo"
    },
    "28:39: stages.distill.student: there is no stage 'none' before this one; known: base, sft, "
    "probe, fuse": {
        "line_28": "  - {kind: distill, start_from: fuse, student: none, sampling: *sampling}"
        "\n  - kind: mgpo"
    },
    "14:45: data.problems.test.path: there is no file or directory none.parquet (paths are "
    "relative to the recipe)": {
        "line_14": "    test: {source: benchmark, name: aime25, path: none.parquet}"
    },
    "14:5: data.problems.test: config, split, revision and local are for source: hub": {
        "line_14": "    test: {source: file, path: problems.jsonl, split: test}"
    },
    "14:25: data.problems.test.path: './own/rows' is a path of this machine; use `source: file`": {
        "line_14": "    test: {source: hub, path: ./own/rows}"
    },
    "14:25: data.problems.test.path: 'empty' is a path of this machine; use `source: file`": {
        "line_14": "    test: {source: hub, path: empty}"
    },
    "14:26: data.problems.test.path: 'aime.xlsx' must end in .jsonl, .json, .csv, .parquet": {
        "line_14": "    test: {source: file, path: aime.xlsx}"
    },
    "14:63: data.problems.test.reward.file: there is no file or directory r.py (paths are "
    "relative to the recipe)": {
        "line_14": "    test: {source: hub, path: a/b, verifier: custom, reward: {file: r.py}}"
    },
    "14:36: data.problems.test.verifier: verifier: custom needs a reward (file, function), and no"
    " other has one": {"line_14": "    test: {source: hub, path: a/b, verifier: custom}"},
    "14:46: data.problems.test.columns.incorrect: only for verifier: choice, and this one "
    "is math": {"line_14": "    test: {source: hub, path: a/b, columns: {incorrect: [b]}}"},
    "18:7: data.traces.traces.path: there is no file or directory traces.jsonl (paths are "
    "relative to the recipe)": {
        "line_17": "      source: file",
        "line_18": "      path: traces.jsonl",
    },
    "14:36: data.problems.test.local: there is no file or directory rows (paths are relative to "
    "the recipe)": {"line_14": "    test: {source: hub, path: a/b, local: rows}"},
    "18:29: data.traces.traces.sets.0.path: there is no file or directory traces.jsonl (paths are"
    " relative to the recipe)": {
        "line_17": "      source: mix",
        "line_18": "      sets: [{source: file, path: traces.jsonl}]",
    },
    "18:7: data.traces.traces.problems: worked solutions exist for reasoning_gym problems only, "
    "which 'test' has not": {
        "line_14": "    test: {source: file, path: problems.jsonl}",
        "line_18": "      problems: test",
    },
    "31:5: stages.mgpo.problems: 'again' is what the stage 'evaluate' tests on; train on other "
    "problems": {
        "line_14": "    test: &file {source: file, path: problems.jsonl}\n    again: *file",
        "line_30": "    problems: again",
    },
    "3:29: model.path: there is no file or directory qwen (paths are relative to the recipe)": {
        "line_3": "model: {source: pretrained, path: ./qwen}"
    },
    "3:29: model.path: empty has no config.json: it is no model directory": {
        "line_3": "model: {source: pretrained, path: empty}"
    },
}


@pytest.mark.parametrize("message", WRONG_REFERENCES)
def test_a_wrong_reference_is_named_with_its_position(message: str, tmp_path: Path) -> None:
    (tmp_path / "problems.jsonl").write_text('{"prompt": "1 + 1", "answer": "2"}\n')
    (tmp_path / "empty").mkdir()
    path = write_recipe(tmp_path, **WRONG_REFERENCES[message])
    assert f"recipe.yaml:{message}" in problems_of(path)


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
