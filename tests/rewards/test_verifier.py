"""One verdict per completion, whatever the verifier."""

import pytest

from vibelite.errors import DataError
from vibelite.rewards.verifier import verify
from vibelite.types import Completion, FinishReason, Problem

QUESTION = ({"role": "user", "content": "?"},)


def judge(text, answer="204", verifier="math", finish_reason: FinishReason = "stop"):
    problem = Problem("p", "s", QUESTION, answer, verifier)
    return verify(problem, Completion((), (), finish_reason, text))


@pytest.mark.parametrize("verifier", ["procedural", "math", "exact"])
def test_only_the_last_of_two_boxes_counts(verifier):
    assert judge("\\boxed{203} no, \\boxed{204}", verifier=verifier).reward == 1.0
    assert judge("\\boxed{204} no, \\boxed{203}", verifier=verifier).reward == 0.0


@pytest.mark.parametrize("verifier", ["procedural", "math", "exact"])
def test_a_box_inside_the_thinking_does_not_count(verifier):
    thought = "<think>\\boxed{204}</think>"
    assert judge(f"{thought} so it is", verifier=verifier).detail == "no boxed answer"
    assert judge(f"{thought} so \\boxed{{204}}", verifier=verifier).correct
    assert judge("<think>\\boxed{204}", verifier=verifier).detail == "unclosed <think>"
    assert not judge("</think>\\boxed{204}<think> hm", verifier=verifier).correct


@pytest.mark.parametrize("verifier", ["procedural", "math", "exact"])
def test_a_truncated_completion_is_wrong_unseen(verifier):
    verdict = judge("\\boxed{204}", verifier=verifier, finish_reason="length")
    assert (verdict.reward, verdict.correct, verdict.detail) == (0.0, False, "truncated")


@pytest.mark.parametrize("verifier", ["procedural", "math", "exact"])
def test_boxes_that_are_empty_or_never_closed_are_no_answer(verifier):
    for text in ["\\boxed{}", "\\boxed{204", "\\boxed 204", "\\boxed{\\{204}"]:
        assert judge(text, verifier=verifier).reward == 0.0, text


@pytest.mark.parametrize("verifier", ["procedural", "math", "exact"])
def test_a_wrong_answer_is_shown_in_the_detail(verifier):
    assert judge("\\boxed{205}", verifier=verifier).detail == "wrong: 205"


def test_leading_zeros_do_not_matter_for_numbers_and_do_for_exact_text():
    for verifier in ["procedural", "math"]:
        assert judge("\\boxed{025}", "25", verifier).correct
        assert judge("\\boxed{25}", "025", verifier).correct
    assert not judge("\\boxed{025}", "25", "exact").correct


def test_an_unknown_verifier_is_a_data_error():
    with pytest.raises(DataError, match="unknown verifier 'vibes'"):
        judge("", verifier="vibes")
