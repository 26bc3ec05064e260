"""Answers that are right only if they say exactly the one expected thing: generated problems, letters, words.

The generators' own scorers are never called: some pay for any text that contains the answer, some evaluate the text.
"""

from __future__ import annotations

from vibelite.rewards.answer_text import boxed_answer, judge, parse_rational
from vibelite.types import Verdict


def check_procedural(text: str, answer: str) -> Verdict:
    r"""The last \boxed{} equals the answer: as exact numbers where both are numbers, else as text."""
    boxed, failure = boxed_answer(text)
    if boxed is None:
        return Verdict(0.0, False, failure)
    expected, given = parse_rational(answer), parse_rational(boxed)
    if expected is not None and given is not None:
        return judge(expected == given, boxed)
    return judge(_as_text(boxed) == _as_text(answer), boxed)


def check_exact(text: str, answer: str) -> Verdict:
    r"""The last \boxed{} is the answer, sign for sign, but for white space and a \text{} around it."""
    boxed, failure = boxed_answer(text)
    if boxed is None:
        return Verdict(0.0, False, failure)
    return judge(_as_text(boxed) == _as_text(answer), boxed)


def _as_text(answer: str) -> str:
    for wrapper in ("\\text{", "\\mathrm{", "\\textbf{"):
        if answer.startswith(wrapper) and answer.endswith("}"):
            answer = answer[len(wrapper) : -1]
    return " ".join(answer.split())
