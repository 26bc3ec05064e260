import json

import pytest
from typer.testing import CliRunner

from vibelite import cli
from vibelite.commands.chat import chosen_models, run_problems
from vibelite.errors import RecipeError


def talk(*arguments, typed=None):
    done = CliRunner().invoke(cli.app, ["chat", *map(str, arguments)], input=typed)
    assert done.exit_code == 0, done.exception
    return done.stdout


def test_two_models_answer_a_problem_of_the_run_and_are_judged(nano_run):
    text, problem = next(iter(run_problems(nano_run, None).items()))
    answer = ["--prompt", text, "--max-new-tokens", 4, "--temperature", 0]
    said = talk(nano_run, "--against", "base", *answer).splitlines()
    assert [line for line in said if line.startswith("[")] == ["[base]", "[final]"]
    verdicts = [line for line in said if line.startswith("verdict: reward 0, expected ")]
    assert len(verdicts) == 2
    assert problem.answer in verdicts[0]


def test_a_conversation_goes_on_until_an_empty_line(nano_run, monkeypatch):
    from vibelite.commands import chat

    heard = []

    def answered(policy, messages, system, **settings):
        heard.append([message["content"] for message in messages])
        return f"answer {len(heard)}"

    monkeypatch.setattr(chat, "answered", answered)
    talk(nano_run / "export", typed="one\ntwo\n\nthree\n")
    assert heard == [["one"], ["one", "answer 1", "two"]]


def test_a_greedy_answer_is_the_engine_s(nano_run):
    """What `chat` writes without chance, of the tokens that the run's own sampling would take."""
    from vibelite.commands.chat import answered, load
    from vibelite.models.load import load_policy

    policy = load(str(nano_run / "export"))
    messages = [{"role": "user", "content": "2 + 2"}]
    said = answered(policy, messages, "", max_new_tokens=6, temperature=0)
    assert said == greedy(load_policy(nano_run / "export"), messages, 6)


def greedy(policy, messages, num_tokens):
    import torch

    from vibelite.data.chat import end_token_id, prompt_ids

    ids = prompt_ids(policy.tokenizer, messages)
    start = len(ids)
    policy.model.set_attn_implementation("eager")
    while len(ids) < start + num_tokens:
        logits = policy.model(torch.tensor([ids])).logits[0, -1]
        ids.append(int(logits.argmax()))
        if ids[-1] == end_token_id(policy.tokenizer):
            break
    return policy.tokenizer.decode(ids[start:], skip_special_tokens=True)


def test_what_is_no_run_has_no_base_and_no_problems(tmp_path):
    with pytest.raises(RecipeError, match="only for a run directory"):
        chosen_models(str(tmp_path), "base")
    assert run_problems(tmp_path, None) == {}
    assert chosen_models("owner/name", "runs/a/export") == {
        "export": "runs/a/export",
        "name": "owner/name",
    }


def test_a_run_without_an_export_and_data_that_are_gone_are_told(tmp_path, capsys):
    (tmp_path / "recipe.resolved.yaml").write_text(json.dumps(RECIPE))
    with pytest.raises(RecipeError, match="nothing is exported yet"):
        chosen_models(str(tmp_path), "")
    assert run_problems(tmp_path, None) == {}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("no verdicts: name the run's recipe with --recipe (")
    assert "gone.jsonl" in line


RECIPE = {
    "name": "own",
    "model": {"source": "smollm2"},
    "data": {"problems": {name: {"source": "file", "path": "gone.jsonl"} for name in "ab"}},
    "stages": [
        {"kind": "evaluate", "benchmarks": ["a"], "sampling": {"max_new_tokens": 8}},
    ],
}
