"""The key under which a vote counts a completion: its final answer, one text for equal answers."""

from __future__ import annotations

from vibelite.rewards.answer_text import boxed_answer, last_number, parse_rational
from vibelite.rewards.choice import LETTERS, PERMUTATION, read_letter
from vibelite.rewards.math_answer import normalise
from vibelite.types import Completion, Problem


def shown_letter(completion: Completion) -> str | None:
    """The letter that a completion chose among the options as they were shown; None without one."""
    if completion.finish_reason == "length":
        return None
    boxed, _ = boxed_answer(completion.text)
    return None if boxed is None else read_letter(boxed)


def answer_key(problem: Problem, completion: Completion) -> str | None:
    r"""The normalised content of the last box after the thinking; None without an answer, and for
    a completion that was cut off.

    Numbers are reduced ("\frac{2}{4}" and "0.5" are "1/2"); other expressions that are equal in
    mathematics may have different keys and then split their votes. The key of a choice is the
    option's letter before the options were shuffled.
    """
    if problem.verifier == "choice":
        letter = shown_letter(completion)
        order = problem.metadata.get(PERMUTATION)
        if letter is None or order is None:
            return letter
        place = LETTERS.index(letter)
        return LETTERS[order[place]] if place < len(order) else None
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
