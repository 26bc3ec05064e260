"""CLR from samples to score; the model is played by a script."""

import json
import re
import sys
from pathlib import Path

import pytest

from tests.policies import tiny_policy
from tests.scripted_model import ScriptedModel
from vibelite import cli
from vibelite.algorithms.votes import majority_vote
from vibelite.run_dir import read_jsonl
from vibelite.stages.claims import clr_result, read_claims, read_judgement


def reply(question: str, sample: int) -> str:
    """Two of four solutions are wrong and agree; only the right ones' claims are confirmed."""
    if "numbered from 1 to" in question:
        answer = re.findall(r"boxed\{(\d+)\}", question)[-1]
        if answer == "0":
            return "There are no claims."
        return f"1. The answer is {answer}.\n2. It is a sum.\n"
    if "Is it true?" in question:
        is_true = "answer is 9" not in question
        return "It is \\boxed{yes}" if is_true else "Not so: \\boxed{no}"
    (number,) = map(int, re.findall(r"What is (\d)", question))
    answers = [str(2 * number), "9", "9", "0"]
    return f"<think>hm</think> \\boxed{{{answers[sample]}}}"


@pytest.fixture
def model(monkeypatch) -> ScriptedModel:
    scripted = ScriptedModel(reply)
    scripted.play(monkeypatch)
    return scripted


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    tiny_policy(seed=1, max_position=4096).save(tmp_path / "model")
    rows = [{"prompt": f"What is {n} + {n}?", "answer": str(2 * n)} for n in (2, 3)]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return ["eval", str(tmp_path / "model"), "--bench", str(tmp_path / "p.jsonl"), "--clr", "2",
            "--num-samples", "4", "--k", "2", "--json", "--max-new-tokens", "600",
            "--out", str(tmp_path / "out")]  # fmt: skip


def evaluate(monkeypatch, capsys, arguments):
    monkeypatch.setattr(sys, "argv", ["vibelite", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    captured = capsys.readouterr()
    assert ended.value.code == 0, captured.err
    return json.loads(captured.out)


def test_confirmed_claims_outvote_a_wrong_majority(model, arguments, monkeypatch, capsys):
    result = evaluate(monkeypatch, capsys, arguments)
    assert result["pass_at_1"] == 0.25 and result["cons_at_n"] == 0.0
    assert result["clr"]["clr_at_n"] == 1.0
    # Right ones: both claims confirmed. Wrong ones: (1/2)^2 twice, and no claims once.
    assert result["clr"]["reliability_of_correct"] == 1.0
    assert result["clr"]["reliability_of_others"] == pytest.approx((0.25 + 0.25 + 0) / 3)


def test_what_was_asked_once_is_not_asked_again(model, arguments, monkeypatch, capsys):
    first = evaluate(monkeypatch, capsys, arguments)
    # 8 solutions, 8 lists of claims, and 2 claims of each of the 6 lists that are whole, all
    # sampled as the command says.
    limits = [(settings.temperature, settings.max_new_tokens) for settings in model.settings]
    assert limits == [(1.0, 600)] * (8 + 8 + 12)
    out = Path(arguments[-1])
    judged = out / "judgements-2.jsonl"
    kept = judged.read_text().splitlines(keepends=True)[:7]
    judged.write_text("".join(kept) + '{"problem_id": "p/1", "torn')
    assert evaluate(monkeypatch, capsys, arguments) == first
    assert model.asked == 28 + 5 and len(list(read_jsonl(judged))) == 12


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        ("1. one\n2. two", ["one", "two"]),
        ("<think>1. no</think>Claims:\n1) one\n**2.** two", ["one", "two"]),
        ("<think>1. no</think>Claims:\n 1) one\n\n2: two\nThat is all.", ["one", "two"]),
        ("1. one\n2. two\n3. three", []),
        ("1. one\n3. three", []),
        ("2. two\n1. one", []),
        ("", []),
    ],
)
def test_claims_are_read_only_where_all_are_there_in_order(text, claims):
    assert read_claims(text, 2) == claims


@pytest.mark.parametrize(
    ("text", "verdict"),
    [("\\boxed{yes}", 1.0), ("\\boxed{\\text{Yes}}", 1.0), ("\\boxed{no}", 0.0), ("yes", 0.0),
     ("\\boxed{yes and no}", 0.0), ("<think>\\boxed{yes}", 0.0)],
)  # fmt: skip
def test_only_a_boxed_yes_confirms(text, verdict):
    assert read_judgement(text) == verdict


def rows(*votes: tuple[str, bool, float], cut_off: int = 0) -> list[dict]:
    return [
        {"problem_id": "p", "answer": answer, "correct": right, "reliability": weight}
        | {"num_cut_off": cut_off}
        for answer, right, weight in votes
    ]


def test_solutions_that_are_all_worth_nothing_are_counted_by_the_majority():
    """Two of three agree and are right: CLR is 1, and not the half of a tie of two answers."""
    samples = rows(("4", True, 0.0), ("9", False, 0.0), ("4", True, 0.0))
    result = clr_result(samples, 5, num_bootstrap=10, seed=0)
    assert (result["clr_at_n"], result["num_ties"]) == (1.0, 0)
    majority, _ = majority_vote(["4", "9", "4"], [True, False, True])
    assert result["clr_at_n"] == majority == 1.0
    # A single doubt less, and the weights decide again.
    samples = rows(("4", True, 0.0), ("9", False, 0.1), ("4", True, 0.0))
    assert clr_result(samples, 5, num_bootstrap=10, seed=0)["clr_at_n"] == 0.0


def test_repeated_votes_are_averaged_and_cut_off_answers_counted():
    """Of three votes of two the first and the last are right, the last by a tie half."""
    samples = rows(
        *(("4", True, 1.0), ("9", False, 0.5)),
        *(("4", True, 0.2), ("9", False, 0.5)),
        *(("4", True, 0.5), ("9", False, 0.5)),
        cut_off=2,
    )
    result = clr_result(samples, 5, 3, num_bootstrap=10, seed=0)
    assert result["clr_at_n"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert (result["n"], result["num_repeats"], result["num_ties"]) == (2, 3, 1)
    assert result["num_cut_off"] == 12
