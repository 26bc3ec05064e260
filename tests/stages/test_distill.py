import json
from pathlib import Path
from typing import Any

import pytest
import torch

from vibelite.errors import DataError
from vibelite.models.load import load_policy
from vibelite.pipeline import run_pipeline
from vibelite.recipe.load import load_recipe
from vibelite.run_dir import read_jsonl
from vibelite.stages import distill
from vibelite.stages.distill import verified_traces
from vibelite.types import Problem

RECIPE = """\
name: distilled
model: {source: tiny, hidden_size: 16, num_layers: 1, num_heads: 2, mlp_size: 16, vocab_size: 300}
data:
  problems:
    own:
      source: file
      path: own.jsonl
      verifier: custom
      reward: {file: reward.py}
  traces:
    seed: {source: file, path: traces.jsonl}
stages:
  - kind: sft
    name: first
    traces: seed
    num_steps: 40
    sequences_per_step: 12
    checkpoint_every: 40
    optimizer: {kind: muon, lr: 1e-2}
  - kind: distill
    start_from: first
    problems: own
    num_samples: 6
    min_tokens: 2
    keep_from: 0
    sampling: {max_new_tokens: 12}
  - kind: sft
    name: second
    start_from: base
    traces: distill
    num_steps: 2
    checkpoint_every: 2
    optimizer: {lr: 1e-3}
"""
# Accepts what has an even number of characters, if the model stopped by itself.
REWARD = "def score(problem, text):\n    return float(len(text) % 2 == 0)\n"


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("distill")
    (path / "recipe.yaml").write_text(RECIPE)
    (path / "reward.py").write_text(REWARD)
    questions = [f"Write {i}." for i in range(12)]
    (path / "own.jsonl").write_text(
        "\n".join(json.dumps({"prompt": question, "answer": "any"}) for question in questions)
    )
    answers = ["abcdefghij"[i % 7 : i % 7 + 1 + i % 4] for i in range(len(questions))]
    traces = [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": answer}]}
        for q, answer in zip(questions, answers, strict=True)
    ]
    (path / "traces.jsonl").write_text("\n".join(map(json.dumps, traces)))
    return path


@pytest.fixture(scope="module")
def run_path(directory) -> Path:
    recipe_path = directory / "recipe.yaml"
    run_pipeline(load_recipe(recipe_path, []), recipe_path=recipe_path, run_dir=directory / "run")
    return directory / "run"


def test_chosen_traces_are_verified_answers_and_the_next_stage_trains_on_them(run_path):
    stage = run_path / "stages" / "01-distill"
    report = json.loads((stage / "distillation.json").read_text())
    traces = list(read_jsonl(stage / "traces.jsonl"))
    assert report["num_samples"] == 72
    assert 0 < len(traces) == report["num_chosen"] < report["num_verified"]
    assert report["num_verified"] == report["num_chosen"] + sum(report["dropped"].values())
    assert report["dropped"]["easy"] == 0, "keep_from: 0 drops none"
    accepted = {row["completion"] for row in read_jsonl(stage / "samples.jsonl") if row["correct"]}
    for trace in traces:
        assert [message["role"] for message in trace["messages"]] == ["user", "assistant"]
        assert trace["messages"][-1]["content"] in accepted
        assert trace["num_tokens"] >= 2
    assert len(list(read_jsonl(run_path / "stages" / "02-second" / "steps.jsonl"))) == 2


def test_the_share_that_the_student_finds_easiest_is_dropped(directory, tmp_path):
    recipe_path = directory / "recipe.yaml"
    recipe = load_recipe(recipe_path, ["stages.distill.keep_from=0.5"])
    run_pipeline(recipe, recipe_path=recipe_path, run_dir=tmp_path / "run", until="distill")
    report = json.loads((tmp_path / "run/stages/01-distill/distillation.json").read_text())
    assert 0 < report["dropped"]["easy"] < report["num_verified"]


def test_traces_beyond_the_positions_of_the_student_are_dropped_and_counted(
    directory, run_path, tmp_path, monkeypatch
):
    def lengths(run: Path) -> list[int]:
        traces = read_jsonl(run / "stages" / "01-distill" / "traces.jsonl")
        texts = (tokenizer.apply_chat_template(t["messages"], tokenize=False) for t in traces)
        return [len(tokenizer.encode(text, add_special_tokens=False)) for text in texts]

    tokenizer: Any = load_policy(run_path / "base").tokenizer
    limit = max(lengths(run_path)) - 1
    monkeypatch.setattr(distill, "positions_of", lambda config: limit)
    path, run = directory / "recipe.yaml", tmp_path / "run"
    run_pipeline(load_recipe(path, []), recipe_path=path, run_dir=run, until="distill")
    report = json.loads((run / "stages" / "01-distill" / "distillation.json").read_text())
    assert 0 < report["dropped"]["longer than the student's positions"] < report["num_verified"]
    assert report["num_verified"] == report["num_chosen"] + sum(report["dropped"].values())
    assert max(lengths(run)) <= limit


def test_the_score_is_the_mean_nll_of_the_answer_s_tokens_under_the_student(run_path):
    student = load_policy(run_path / "base")
    for trace in list(read_jsonl(run_path / "stages" / "01-distill" / "traces.jsonl"))[:5]:
        tokenizer: Any = student.tokenizer
        prompt = tokenizer.apply_chat_template(
            trace["messages"][:-1], tokenize=False, add_generation_prompt=True
        )
        whole = tokenizer.apply_chat_template(trace["messages"], tokenize=False)
        num_prompt = len(tokenizer.encode(prompt, add_special_tokens=False))
        ids = torch.tensor([tokenizer.encode(whole, add_special_tokens=False)])
        ids = ids[:, : num_prompt + trace["num_tokens"]]
        with torch.no_grad():
            logits = student.model.double()(input_ids=ids).logits[0, :-1]
        nll = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        assert trace["nats_per_token"] == pytest.approx(nll[num_prompt - 1 :].mean().item(), 1e-4)


def test_nothing_verified_is_an_error_that_says_where_the_samples_went(directory, tmp_path):
    (directory / "never.py").write_text("def score(problem, text):\n    return 0.0\n")
    path = directory / "recipe.yaml"
    recipe = load_recipe(path, ["data.problems.own.reward.file=never.py"])
    with pytest.raises(DataError, match=r"no trace is left: .*\"num_verified\": 0"):
        run_pipeline(recipe, recipe_path=path, run_dir=tmp_path / "run")


def test_equal_solutions_count_once_and_prompts_stay_as_they_were_shown(tmp_path):
    system = {"role": "system", "content": "Be exact."}
    problem = Problem("p", "s", (system, {"role": "user", "content": "A or B?"}), "A", "choice")
    rows = [
        {"problem_id": "p", "prompt": "B or A?", "completion": "one", "correct": True},
        {"problem_id": "p", "prompt": "B or A?", "completion": "one", "correct": True},
        {"problem_id": "p", "prompt": "A or B?", "completion": "two", "correct": False},
        {"problem_id": "p", "prompt": "A or B?", "completion": "two", "correct": None},
    ]
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (trace,) = verified_traces(path, [problem])
    contents = [message["content"] for message in trace["messages"]]
    assert contents == ["Be exact.", "B or A?", "one"]
