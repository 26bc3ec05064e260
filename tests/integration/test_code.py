"""Training and evaluation on programming problems: everything is real but the sampled texts."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest

from tests.scripted_model import ScriptedModel
from vibelite.errors import SandboxError
from vibelite.pipeline import run_pipeline
from vibelite.recipe.load import load_recipe
from vibelite.rewards import sandbox
from vibelite.run_dir import read_json, read_jsonl

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = """
name: programs
model:
  {source: tiny, hidden_size: 16, num_layers: 1, num_heads: 2, mlp_size: 16, vocab_size: 300,
   max_position: 1024}
data:
  problems:
    train: {source: file, path: train.jsonl, verifier: code, columns: {id: id}}
    lcb: {source: benchmark, name: lcb-v6, path: lcb}
verification: {num_workers: 1}
stages:
  - kind: mgpo
    start_from: base
    problems: train
    num_steps: 2
    problems_per_step: 2
    group_size: 4
    sampling: {max_new_tokens: 64}
    optimizer: {lr: 1e-2}
  - kind: evaluate
    models: [mgpo]
    benchmarks: [lcb]
    num_samples: 4
    k: [2]
    sampling: {max_new_tokens: 64}
"""
# By a word of the question: what the four samples are, and how they are judged.
ANSWERS = {
    "double": [
        ("```python\nprint(2 * int(input()))\n```", "pass"),
        ("```python\nprint(int(input()) ** 2)\n```", "wrong_answer: test 2 of 2: line 1 is '9'"),
        ("```python\nwhile True: pass\n```", "time_limit: test 1 of 2: more than 0.4 s"),
        ("It is twice that.", "wrong_answer: no closed block of Python code"),
    ],
    "reverse": [
        ("```python\ndef reverse(t): return t[::-1]\n```", "pass"),
        ("```python\ndef reverse(t): return ''.join(reversed(t))\n```", "pass"),
        ("<think>```python\ndef reverse(t): return t\n```", "wrong_answer: unclosed <think>"),
        ("```python\ndef reverse(t): return t[:-1]\n```", "wrong_answer: test 1 of 1: "),
    ],
    "Sum": [
        ("```python\nimport sys\nprint(sum(map(int, sys.stdin)))\n```", "pass"),
        ("```python\nprint(int(input()) + int(input()))\n```", "runtime_error: test 3 of 3: EOF"),
    ]
    * 2,
    "Root": [("```python\nclass Solution:\n  def root(self, n): return isqrt(n)\n```", "pass")] * 4,
}


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def lcb_row(name: str, content: str, private: list[tuple[str, str]], function: str) -> Any:
    kind = "functional" if function else "stdin"
    tests = [{"input": given, "output": wanted, "testtype": kind} for given, wanted in private]
    packed = zlib.compress(pickle.dumps(json.dumps(tests)))
    return {
        "question_id": name,
        "question_content": content,
        "contest_date": "2025-03-01T00:00:00",
        "difficulty": "easy",
        "starter_code": "class Solution:\n    def root(self, n: int) -> int:" if function else "",
        "public_test_cases": json.dumps(tests[:1]),
        "private_test_cases": base64.b64encode(packed).decode(),
        "metadata": json.dumps({"func_name": function} if function else {}),
    }


def reply(question: str, sample: int) -> str:
    (answers,) = (answers for word, answers in ANSWERS.items() if word in question)
    return answers[sample][0]


@pytest.fixture
def recipe_path(tmp_path, monkeypatch):
    double = [
        {"type": "stdin", "input": "2\n", "output": "4\n"},
        {"type": "stdin", "input": "3\n", "output": "6\n"},
    ]
    reverse = {"type": "functional", "fn_name": "reverse", "input": '"abc"', "output": '"cba"'}
    write_jsonl(
        tmp_path / "train.jsonl",
        [
            {"id": "a", "prompt": "double it", "tests": double, "limits": {"seconds": 0.4}},
            {"id": "b", "prompt": "reverse it", "tests": json.dumps([reverse])},
        ],
    )
    for name in ["test.jsonl", *(f"test{number}.jsonl" for number in range(2, 6))]:
        write_jsonl(tmp_path / "lcb" / name, [])
    rows = [
        lcb_row("abc1_a", "Sum the lines.", [("1\n2\n", "3"), ("5\n", "5")], ""),
        lcb_row("7", "Root, rounded down.", [("17", "4")], "root"),
        lcb_row("8", "Root of an older contest", [("17", "4")], "root"),
    ]
    rows[2]["contest_date"] = "2025-01-31T00:00:00"
    write_jsonl(tmp_path / "lcb" / "test6.jsonl", rows)
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    ScriptedModel(reply).play(monkeypatch)
    return path


def test_a_run_on_programs_from_rollout_to_score(recipe_path, tmp_path):
    run_dir = tmp_path / "run"
    run_pipeline(load_recipe(recipe_path), recipe_path=recipe_path, run_dir=run_dir)
    trained, evaluated = sorted((run_dir / "stages").iterdir())
    for step in read_jsonl(trained / "steps.jsonl"):
        assert step["metrics"]["reward/mean"] == pytest.approx(3 / 8)
    assert {row["correct"] for row in read_jsonl(trained / "samples.jsonl")} == {True, False}
    for path in (trained / "samples.jsonl", evaluated / "samples.jsonl"):
        for row in read_jsonl(path):
            (answers,) = (a for word, a in ANSWERS.items() if word in row["prompt"])
            (reason,) = {reason for text, reason in answers if text == row["completion"]}
            assert row["detail"].startswith(reason)
            assert row["correct"] is (reason == "pass")
    (result,) = read_json(evaluated / "results.json")
    assert (result["num_problems"], result["num_samples"]) == (2, 4)
    assert result["pass_at_1"] == pytest.approx((2 / 4 + 4 / 4) / 2)
    assert result["pass_at_k"]["2"] == pytest.approx((5 / 6 + 1) / 2)
    assert (result["cons_at_n"], result["verifier_failures"]) == (None, 0)
    assert result["data"]["window"] == ["2025-02-01", "2025-05-01"]
    assert (result["data"]["num_problems"], result["data"]["official_num_problems"]) == (2, 131)
    assert len(result["data"]["sha256"]) == 64
    assert result["published"]["pass_at_1"]["VibeThinker-1.5B"] == 0.511
    assert read_json(run_dir / "manifest.json")["sandbox"]["tier"] in sandbox.TIERS


def test_a_machine_that_confines_nothing_is_refused_before_anything_is_computed(
    recipe_path, tmp_path, monkeypatch
):
    monkeypatch.setattr(sandbox, "self_test", lambda _: "a file could be read")
    run_dir = tmp_path / "run"
    with pytest.raises(SandboxError, match=r"a file could be read.*that allows seccomp filters"):
        run_pipeline(load_recipe(recipe_path), recipe_path=recipe_path, run_dir=run_dir)
    assert not (run_dir / "base").exists()
