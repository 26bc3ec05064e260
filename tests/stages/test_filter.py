"""Which traces a second round of fine-tuning sees, by hand; the reference model is scripted."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.scripted_model import Killed, ScriptedModel
from vibelite.errors import DataError
from vibelite.pipeline import run_pipeline
from vibelite.recipe.load import load_recipe
from vibelite.recipe.stage_section import FilterStage
from vibelite.run_dir import read_jsonl
from vibelite.stages.filter import Survivor, choose, question_key
from vibelite.types import Trace

RECIPE = """\
name: curriculum
model: {source: tiny, hidden_size: 16, num_layers: 1, num_heads: 2, mlp_size: 16, vocab_size: 300}
data:
  problems:
    train: {source: file, path: problems.jsonl, instruction: "Box it.", columns: {id: id}}
  traces:
    all: {source: file, path: traces.jsonl}
stages:
  - kind: filter
    traces: all
    num_samples: 4
    min_tokens: 20
    max_per_problem: 2
    sampling: {max_new_tokens: 8}
  - kind: sft
    traces: filter
    num_steps: 2
    sequences_per_step: 2
    checkpoint_every: 2
    optimizer: {lr: 1e-3}
"""
# Right rollouts of four, by problem.
NUM_RIGHT = {"hard": 0, "edge": 1, "easy": 2}
ANSWERS = {"hard": "11", "edge": "12", "easy": "13"}
LONG = "First we look at it, then we add the numbers up. "
LOOP = "and so we add one and then we take one off again because it has to be so " * 20


def trace(name: str, text: str, question: str = "") -> dict[str, Any]:
    messages = [
        {"role": "user", "content": question or f"What is {name}?"},
        {"role": "assistant", "content": text},
    ]
    return {"messages": messages}


TRACES = [
    trace("hard", f"{LONG}\\boxed{{11}}"),
    trace("hard", f"<think>{LONG}</think> \\boxed{{11}}"),
    trace("hard", f"{LONG} \\boxed{{11}}"),  # the first one again, but for a blank
    trace("hard", f"Another way. {LONG}\\boxed{{11}}"),  # the third of at most two
    trace("hard", f"{LONG}\\boxed{{12}}"),
    trace("hard", "\\boxed{11}"),
    trace("hard", f"{LOOP}\\boxed{{11}}"),
    trace("edge", f"{LONG}\\boxed{{12}}", "What is edge? Box it."),
    trace("edge", f"Well. {LONG}\\boxed{{12}}", "WHAT IS EDGE?\nPut the final answer in a box."),
    trace("easy", f"{LONG}\\boxed{{13}}"),
    trace("unknown", f"{LONG}\\boxed{{14}}"),
]
DROPPED = {
    "the same text again": 1,
    "beyond max_per_problem": 1,
    "not verified": 1,
    "too short": 1,
    "repetition": 1,
    "too easy": 1,
    "without a problem": 1,
}


def reply(question: str, sample: int) -> str:
    (name,) = [name for name in ANSWERS if f"What is {name}?" in question]
    return f"\\boxed{{{ANSWERS[name] if sample < NUM_RIGHT[name] else '0'}}}"


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> ScriptedModel:
    model = ScriptedModel(reply)
    model.play(monkeypatch)
    return model


@pytest.fixture
def recipe_path(tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    problems = [
        {"id": name, "prompt": f"What is {name}?", "answer": ANSWERS[name]} for name in ANSWERS
    ]
    # Of two problems of one question its traces belong to the first.
    problems.append({"id": "again", "prompt": "what is EDGE", "answer": "0"})
    (tmp_path / "problems.jsonl").write_text("\n".join(map(json.dumps, problems)))
    (tmp_path / "traces.jsonl").write_text("\n".join(map(json.dumps, TRACES)))
    return tmp_path / "recipe.yaml"


def run(
    recipe_path: Path, *overrides: str, name: str = "run", until: str | None = "filter"
) -> Path:
    run_dir = recipe_path.parent / name
    recipe = load_recipe(recipe_path, list(overrides))
    run_pipeline(recipe, recipe_path=recipe_path, run_dir=run_dir, until=until)
    return run_dir / "stages" / "00-filter"


def test_long_verified_traces_of_hard_problems_stay_and_the_next_stage_trains_on_them(
    reference: ScriptedModel, recipe_path: Path
) -> None:
    stage = run(recipe_path, until=None)
    rows = list(read_jsonl(stage / "traces.jsonl"))
    assert [(row["problem_id"], row["error_rate"]) for row in rows] == [
        ("hard", 1.0), ("hard", 1.0), ("edge", 0.75), ("edge", 0.75),
    ]  # fmt: skip
    assert [row["messages"] for row in rows] == [TRACES[n]["messages"] for n in (0, 1, 7, 8)]
    assert all(row["num_tokens"] >= 20 for row in rows)
    report = json.loads((stage / "filtering.json").read_text())
    assert (report["num_traces"], report["num_chosen"], report["num_problems"]) == (11, 4, 2)
    assert report["dropped"] == DROPPED
    assert report["error_rates"] == {"hard": 1.0, "edge": 0.75, "easy": 0.5}
    assert reference.asked == 3 * 4
    assert len(list(read_jsonl(stage.parent / "01-sft" / "steps.jsonl"))) == 2


def test_a_killed_filter_draws_only_what_is_missing(
    reference: ScriptedModel, recipe_path: Path
) -> None:
    reference.kill_after = 5
    with pytest.raises(Killed):
        run(recipe_path)
    reference.kill_after = None
    resumed = run(recipe_path)
    assert reference.asked == 3 * 4
    other = run(recipe_path, name="other")
    for name in ("traces.jsonl", "filtering.json"):
        assert (resumed / name).read_bytes() == (other / name).read_bytes()


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("min_error_rate=0.5", {"too easy": -1}),
        ("min_error_rate=0.76", {"too easy": 2}),
        ("max_repetition=1", {"repetition": -1, "beyond max_per_problem": 1}),
        ("min_tokens=0", {"too short": -1, "beyond max_per_problem": 1}),
        ("max_per_problem=3", {"beyond max_per_problem": -1}),
        ("max_per_problem=1", {"beyond max_per_problem": 2}),
    ],
)
def test_every_setting_decides_on_its_own_traces(
    reference: ScriptedModel, recipe_path: Path, override: str, changed: dict[str, int]
) -> None:
    stage = run(recipe_path, f"stages.filter.{override}")
    expected = Counter(DROPPED)
    expected.update(changed)
    report = json.loads((stage / "filtering.json").read_text())
    assert report["dropped"] == dict(+expected)
    assert report["num_chosen"] == len(TRACES) - sum(expected.values())


def test_nothing_left_is_an_error_that_says_why(
    reference: ScriptedModel, recipe_path: Path
) -> None:
    with pytest.raises(DataError, match=r"'filter': no trace is left: .*\"too short\": 10"):
        run(recipe_path, "stages.filter.min_tokens=5000")
    assert reference.asked == 0


def test_the_first_different_texts_of_a_problem_are_kept() -> None:
    texts = ["a", "b", "a ", " b", "c", "d"]
    traces = [Trace("p", "s", ({"role": "assistant", "content": text},)) for text in texts]
    survivors = [Survivor(place, "p", 9) for place in range(len(texts))]
    stage = FilterStage.model_validate(
        {"kind": "filter", "max_per_problem": 3, "sampling": {"max_new_tokens": 1}}
    )
    dropped: Counter[str] = Counter()
    chosen = choose(survivors, traces, {"p": 0.75}, stage, dropped)
    assert [survivor.place for survivor in chosen] == [0, 1, 4]
    assert dropped == {"the same text again": 2, "beyond max_per_problem": 1}


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("What is 1+1? Box it.", "whatis11"),
        ("what IS $1 + 1$?\nPut the final answer within \\boxed{}.", "whatis11"),
        # A question that is nothing but such a sentence is still a question.
        ("Find the final answer of 7", "findthefinalanswerof7"),
    ],
)
def test_a_question_is_known_by_its_letters_and_digits(text: str, key: str) -> None:
    assert question_key([{"role": "user", "content": text}], "Box it.") == key
