"""Exact answers: a number, a letter or a word has to be the expected one.

The generators' own scorers are never called: some reward any text that contains the answer, some
evaluate the text.
"""

from __future__ import annotations

from vibelite.rewards.answer_text import (
    NO_BOX,
    boxed_answer,
    judge,
    last_number,
    parse_rational,
)
from vibelite.types import Verdict


def check_procedural(text: str, answer: str) -> Verdict:
    r"""The final answer of a completion equals the answer: as exact numbers, or else as text.

    The final answer is the last \boxed{} after the thinking. Where the right answer is a number, a
    completion without any box is read by its last number, because small pretrained models answer in
    plain words; only that one number counts, so listing guesses gains nothing.
    """
    boxed, failure = boxed_answer(text)
    expected = parse_rational(answer)
    if boxed is None and expected is not None and failure == NO_BOX:
        boxed = last_number(text)
    if boxed is None:
        return Verdict(0.0, False, failure)
    given = parse_rational(boxed)
    if expected is not None and given is not None:
        return judge(expected == given, boxed)
    return judge(_as_text(boxed) == _as_text(answer), boxed)


def check_exact(text: str, answer: str) -> Verdict:
    r"""The last \boxed{} is the answer, sign for sign, but for white space and a \text{}."""
    boxed, failure = boxed_answer(text)
    if boxed is None:
        return Verdict(0.0, False, failure)
    return judge(_as_text(boxed) == _as_text(answer), boxed)


def _as_text(answer: str) -> str:
    for wrapper in ("\\text{", "\\mathrm{", "\\textbf{"):
        if answer.startswith(wrapper) and answer.endswith("}"):
            answer = answer[len(wrapper) : -1]
    return " ".join(answer.split())
