"""The final answer of a completion as text that is equal for equal answers: what a vote counts."""

from __future__ import annotations

from vibelite.rewards.answer_text import boxed_answer, last_number, parse_rational
from vibelite.rewards.math_answer import normalise
from vibelite.types import Completion, Problem


def answer_key(problem: Problem, completion: Completion) -> str | None:
    r"""The normalised content of the last box after the thinking; None without an answer, and for
    a completion that was cut off.

    Numbers are reduced ("\frac{2}{4}" and "0.5" are "1/2"); other expressions that are equal in
    mathematics may have different keys and then split their votes.
    """
    if completion.finish_reason == "length":
        return None
    boxed, _ = boxed_answer(completion.text)
    if boxed is None and problem.verifier == "procedural":
        boxed = last_number(completion.text)
    if boxed is None:
        return None
    answer = normalise(boxed)
    value = parse_rational(answer)
    return answer if value is None else str(value)
