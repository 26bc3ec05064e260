"""One verdict per completion, whatever the verifier."""

import pytest

from vibelite.errors import DataError
from vibelite.rewards.verifier import verify
from vibelite.types import Completion, FinishReason, Problem

QUESTION = ({"role": "user", "content": "?"},)


def judge(text, answer="204", verifier="math", finish_reason: FinishReason = "stop"):
    problem = Problem("p", "s", QUESTION, answer, verifier)
    return verify(problem, Completion((), (), finish_reason, text))


THOUGHT = "<think>\\boxed{204}</think>"


@pytest.mark.parametrize("verifier", ["procedural", "math", "exact"])
@pytest.mark.parametrize(
    ("text", "detail"),
    [
        ("\\boxed{203} no, \\boxed{204}", "correct"),
        ("\\boxed{204} no, \\boxed{203}", "wrong: 203"),
        (f"{THOUGHT} so \\boxed{{204}}", "correct"),
        (f"{THOUGHT} so it is", "no boxed answer"),
        ("<think>\\boxed{204}", "unclosed <think>"),
        ("</think>\\boxed{204}<think> hm", "unclosed <think>"),
        ("\\boxed{}", "no boxed answer"),
        ("\\boxed{204", "no boxed answer"),
        ("\\boxed{\\{204}", "wrong: \\{204"),
    ],
)
def test_the_last_box_after_the_thinking_is_the_answer(verifier, text, detail):
    verdict = judge(text, verifier=verifier)
    is_right = detail == "correct"
    assert (verdict.reward, verdict.correct, verdict.detail) == (is_right, is_right, detail)


@pytest.mark.parametrize("verifier", ["procedural", "math", "exact"])
def test_a_truncated_completion_is_wrong_unseen(verifier):
    verdict = judge("\\boxed{204}", verifier=verifier, finish_reason="length")
    assert (verdict.reward, verdict.correct, verdict.detail) == (0.0, False, "truncated")


def test_leading_zeros_do_not_matter_for_numbers_and_do_for_exact_text():
    for verifier in ["procedural", "math"]:
        assert judge("\\boxed{025}", "25", verifier).correct
        assert judge("\\boxed{25}", "025", verifier).correct
    assert not judge("\\boxed{025}", "25", "exact").correct


def test_an_unknown_verifier_is_a_data_error():
    with pytest.raises(DataError, match="unknown verifier 'vibes'"):
        judge("", verifier="vibes")
