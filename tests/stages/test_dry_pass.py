"""What cannot work is told before a model is loaded, by `run`, `plan` and `init` alike."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vibelite.cli import app
from vibelite.errors import DataError
from vibelite.recipe.load import load_recipe
from vibelite.stages.dry_pass import local_dry_pass

RECIPE = """
name: tried
num_threads: 1
model: {source: tiny, hidden_size: 32, num_layers: 2, num_heads: 2, mlp_size: 64, vocab_size: 300}
data:
  problems:
    train: {source: file, path: problems.jsonl, verifier: custom, reward: {file: judge.py}}
  traces:
    traces: {source: file, path: traces.jsonl}
stages:
  - kind: sft
    num_steps: 2
    sequences_per_step: 2
    max_tokens: 60
    checkpoint_every: 2
    optimizer: {lr: 1e-2}
"""
CONTAINS = "def score(problem, text): return problem.answer in text\n"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    problems = [{"prompt": f"What is {n} plus {n}?", "answer": str(2 * n)} for n in range(8, 48)]
    traces = [
        {
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": f"It is \\boxed{{{row['answer']}}}." * copies},
            ]
        }
        for row, copies in zip(problems[:3], (1, 1, 9), strict=True)
    ]
    for name, rows in (("problems", problems), ("traces", traces)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "judge.py").write_text(CONTAINS)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"


def tried(recipe: Path) -> list[str]:
    return local_dry_pass(load_recipe(recipe), recipe.parent)


def test_a_prompt_the_reward_of_its_answer_and_lengths_are_told(recipe: Path) -> None:
    problems, traces, *prompt = tried(recipe)
    assert problems.startswith(
        "train: 40 problems; of the first, the answer itself earns 1 (correct)"
    )
    assert int(problems.split("prompt has ")[1].split()[0]) > 10
    assert traces.startswith("traces: 3 traces, the first 3 of at most ")
    assert traces.endswith("; stages.sft.max_tokens (60) drops 1")
    assert prompt == ["a prompt:", "  <|user|>What is 8 plus 8?<|end|><|assistant|>"]


WRONG = {
    "nothing for a wrong answer": (
        "def score(problem, text):\n    if problem.answer in text:\n        return 1.0\n",
        "the reward of an empty text, '': .*NoneType 'None'.*; return 0.0 for a wrong completion",
    ),
    "percent": (
        "def score(problem, text): return 100.0 * (problem.answer in text)\n",
        r"the reward of the answer itself, .*returned the reward 100.0; it must be in \[0, 1\]",
    ),
    "minus": (
        "def score(problem, text): return 1.0 if problem.answer in text else -0.5\n",
        r"an empty text.*the reward -0.5; .* from -1 to 1 return \(reward \+ 1\) / 2",
    ),
    "a signature of TRL": (
        "def score(prompts, completions, **kwargs): return [0.0 for _ in completions]\n",
        "judge.py: score has the signature of TRL's rewards.*called once for each completion",
    ),
    "a signature of verl": (
        "def score(data_source, solution_str, ground_truth, extra_info=None): return 0.0\n",
        r"judge.py: score cannot be called with two arguments \(missing a required argument",
    ),
    "a pair": (
        "def score(problem, text): return 0.5, 'half right'\n",
        "returned tuple .*; one completion is judged at a time: return its number alone",
    ),
    "a text": ("def score(problem, text): return '0.5'\n", r"returned str '0.5'.*return float\("),
    "an object": (
        "def score(problem, text): return {'reward': 1.0}\n",
        r"returned dict .*return one number, or Verdict\(reward, correct, detail\)",
    ),
    "an index": (
        "def score(problem, text): return float(text.split()[-1] == problem.answer)\n",
        r"an empty text, '': exception: IndexError: list index out of range \(judge.py:1\)",
    ),
    "an import": (
        "import vibelite_has_no_such_module\n" + CONTAINS,
        r"judge.py: cannot be executed \(ModuleNotFoundError",
    ),
    "an end": ("import os\ndef score(problem, text): os._exit(7)\n", "crash: .* exit code 7"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_reward_is_told_with_its_row_and_what_to_return(recipe: Path, name: str) -> None:
    text, message = WRONG[name]
    (recipe.parent / "judge.py").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        tried(recipe)
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith("data.problems.train: ")


def test_messages_that_the_template_refuses_are_told_with_their_row(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = "{{ raise_exception('no system message, please') }}"
    monkeypatch.setattr("vibelite.models.tiny.CHAT_TEMPLATE", refusing)
    with pytest.raises(DataError, match="train: problem problems/0: .* no system message, please"):
        tried(recipe)


def test_run_plan_and_init_tell_it_before_anything_is_made(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recipe.parent)
    (recipe.parent / "judge.py").write_text(WRONG["percent"][0])
    for command in (
        ["run", "recipe.yaml", "--run-dir", "made"],
        ["plan", "recipe.yaml", "--gpu", "cpu"],
        ["init", "mine.yaml", "--problems", "problems.jsonl", "--reward", "judge.py"],
    ):
        error = CliRunner().invoke(app, command).exception
        assert isinstance(error, DataError), (command, error)
        assert "returned the reward 100.0" in str(error)
    assert not Path("mine.yaml").exists()
    assert not Path("made", "base").exists()


def test_run_goes_on_after_it(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(recipe.parent)
    result = CliRunner().invoke(app, ["run", "recipe.yaml", "--run-dir", "made"])
    assert result.exit_code == 0, result.exception
    assert "the answer itself earns 1 (correct)" in result.stderr
    assert Path("made", "stages").is_dir()
