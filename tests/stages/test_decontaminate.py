"""Decontamination inside a run: what is dropped, where that is kept, and when it is judged anew."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import vibelite.stages.decontaminate
from tests.recipe.texts import write_recipe
from vibelite.errors import DataError, RecipeError
from vibelite.pipeline import make_context
from vibelite.recipe.load import load_recipe
from vibelite.run_dir import RunDir, StageDir
from vibelite.stages.context import StageContext
from vibelite.stages.decontaminate import FILE_NAME, dropped_counts
from vibelite.telemetry.meter import Meter

EXAM = [
    "Two runners start at opposite ends of a straight track of 400 meters; when do they meet?",
    "How many of the first ninety prime numbers end with the digit three or with the digit five?",
]
OTHER = [f"What is {n} times {n + 3}, and which of both numbers is larger?" for n in range(6)]
LOOP = "so we try the next number and see that it does not work either because " * 12

RECIPE = """\
name: small
model: {source: tiny}
data:
  problems:
    train: {source: file, path: train.jsonl}
    exam: {source: file, path: exam.jsonl}
  traces:
    solutions: {source: file, path: traces.jsonl}
  decontaminate: {against: [exam]}
stages:
  - kind: sft
    traces: solutions
    num_steps: 1
    checkpoint_every: 1
    optimizer: {lr: 1e-3}
  - kind: mgpo
    start_from: sft
    num_steps: 1
    sampling: &sampling {max_new_tokens: 4}
    optimizer: {lr: 1e-6}
  - kind: evaluate
    benchmarks: [exam]
    sampling: *sampling
"""


def write_rows(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def chat(question: str, answer: str) -> dict[str, Any]:
    turns = (("user", question), ("assistant", answer))
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    problems = [OTHER[0], EXAM[0].upper().replace(" ", "\n"), *OTHER[1:4]]
    write_rows(tmp_path / "train.jsonl", [{"prompt": text, "answer": 1} for text in problems])
    write_rows(tmp_path / "exam.jsonl", [{"prompt": text, "answer": 2} for text in EXAM])
    traces = [
        chat(OTHER[4], "It is 28."),
        chat(OTHER[5], f"I recall: {EXAM[1]} There are 24."),
        chat(OTHER[2], LOOP),
    ]
    write_rows(tmp_path / "traces.jsonl", traces)
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    recipe = load_recipe(path)
    run = RunDir(tmp_path / "run")
    stage_dir = StageDir(run.path / "stages" / "00-sft")
    return make_context(recipe, path, run, "sft", stage_dir, Meter())


def questions(rows: Any) -> list[str]:
    return [row.messages[0]["content"] for row in rows]


def test_training_data_lose_the_exam_and_the_exam_stays_whole(context: StageContext) -> None:
    assert questions(context.problems("train")) == OTHER[:4]
    assert questions(context.traces("solutions")) == [OTHER[4]]
    assert questions(context.problems("exam")) == EXAM


def test_the_run_says_what_it_dropped_and_why(context: StageContext) -> None:
    context.problems("train")
    context.traces("solutions")
    found = json.loads((context.run.path / FILE_NAME).read_text())
    assert found["against"][0]["num_items"] == 2
    (dropped,) = found["sets"]["problems/train"]["dropped"]
    assert (dropped["row"], dropped["id"], dropped["item"]) == (1, "train/1", "exam/0")
    assert dropped["text"].startswith("two runners start at opposite ends")
    rules = [row["rule"] for row in found["sets"]["traces/solutions"]["dropped"]]
    assert rules == ["ngram", "repetition"]
    counts = dropped_counts(context.run.path)
    assert counts is not None
    assert counts["problems/train"] == {
        "num_rows": 5,
        "num_dropped": 1,
        "by_rule": {"ngram": 1},
        "by_set": {"exam": 1},
    }


def test_a_resumed_run_reads_the_decision_and_changed_data_are_judged_anew(
    context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = context.problems("train")

    def refuse(*_: object) -> None:
        raise AssertionError("judged again")

    with monkeypatch.context() as patch:
        patch.setattr(vibelite.stages.decontaminate, "_judge", refuse)
        assert context.problems("train") == first
        write_rows(context.recipe_dir / "exam.jsonl", [{"prompt": OTHER[0] * 2, "answer": 2}])
        with pytest.raises(AssertionError, match="judged again"):
            context.problems("train")
    # OTHER[0] is now in the exam, and the race is not.
    assert questions(context.problems("train"))[0].startswith("TWO\nRUNNERS")


def test_without_the_setting_nothing_is_dropped_or_written(context: StageContext) -> None:
    data = context.recipe.data.model_copy(update={"decontaminate": None})
    plain = replace(context, recipe=context.recipe.model_copy(update={"data": data}))
    assert len(plain.problems("train")) == 5
    assert len(plain.traces("solutions")) == 3
    assert dropped_counts(plain.run.path) is None


def test_a_set_of_which_nothing_is_left_is_an_error(context: StageContext) -> None:
    write_rows(context.recipe_dir / "train.jsonl", [{"prompt": EXAM[0], "answer": 1}])
    with pytest.raises(DataError, match="all 1 rows of problems/train repeat evaluation problems"):
        context.problems("train")


@pytest.mark.parametrize(
    ("against", "message"),
    [
        ("tset", "data.decontaminate.against.0: there is no 'tset' in data.problems; did you mean"),
        ("train", "data.decontaminate.against.0: 'train' is what a stage trains on"),
    ],
)
def test_sets_to_keep_out_must_exist_and_not_be_trained_on(
    against: str, message: str, tmp_path: Path
) -> None:
    text = f"data:\n  decontaminate: {{against: [{against}]}}"
    with pytest.raises(RecipeError, match=message):
        load_recipe(write_recipe(tmp_path, line_4=text))
