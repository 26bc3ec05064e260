"""Finding the final answer in a completion and reading plain numbers; nothing is evaluated."""

from __future__ import annotations

import re
from fractions import Fraction

from vibelite.types import Verdict

# A box stands at the end of an answer; a 64K-token chain of thought before it need not be scanned.
TAIL_CHARS = 50_000
# More digits than any real answer has; bounds the cost of exact arithmetic.
MAX_DIGITS = 400
NO_BOX = "no boxed answer"
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_INTEGER = rf"[0-9]{{1,{MAX_DIGITS}}}"
_DECIMAL = re.compile(rf"([+-]?)({_INTEGER}|{_INTEGER}\.[0-9]{{0,{MAX_DIGITS}}}|\.{_INTEGER})")
_RATIO = re.compile(rf"([+-]?)({_INTEGER})/([+-]?{_INTEGER})")
# A minus belongs to the number unless something stands before it: "7-2" are 7 and 2.
_NUMBER = re.compile(
    r"(?<![0-9A-Za-z).])-?[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])"
    r"|(?:(?<![0-9A-Za-z).])-)?[0-9]+(?:\.[0-9]+|/[0-9]+)?"
)
_LATEX_RATIO = re.compile(
    rf"([+-]?)\\[dt]?frac(?:\{{([+-]?{_INTEGER})\}}|([0-9]))(?:\{{([+-]?{_INTEGER})\}}|([0-9]))"
)


def boxed_answer(text: str) -> tuple[str | None, str]:
    """Content of the last box after the thinking, or None and why there is none."""
    final = after_thinking(text)
    if final is None:
        return None, "unclosed <think>"
    boxed = last_box(final)
    if boxed is None:
        return None, NO_BOX
    return boxed, ""


def judge(correct: bool, boxed: str) -> Verdict:
    """The binary verdict on a boxed answer, with what was boxed if it is wrong."""
    return Verdict(float(correct), correct, "correct" if correct else f"wrong: {boxed[:80]}")


def after_thinking(text: str) -> str | None:
    """The text after the last </think>; None if a <think> is still open."""
    head, separator, tail = text.rpartition("</think>")
    if "<think>" in tail:
        return None
    return tail if separator else text


def last_box(text: str) -> str | None:
    r"""Content of the last \boxed{} or \fbox{}; None if there is none, or it is empty or open.

    A box inside a box gives the inner content: "\boxed{\boxed{7}}" -> "7".
    """
    tail = text[-TAIL_CHARS:]
    openings = list(_BOX.finditer(tail))
    if not openings:
        return None
    opening = openings[-1]
    depth = 1
    position = opening.end()
    while position < len(tail):
        character = tail[position]
        if character == "\\":
            position += 2  # an escaped brace is a sign, not a bracket
            continue
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return tail[opening.end() : position].strip() or None
        position += 1
    return None


def last_number(text: str) -> str | None:
    r"""The last number written in the text, without the commas of thousands.

    None if there is none, or if the text tried to box an answer.

    "so 7 - 2 = 5." -> "5", "it is -1,250" -> "-1250", "x=1/3" -> "1/3".
    """
    tail = text[-TAIL_CHARS:]
    if "\\boxed" in tail or "\\fbox" in tail:
        return None
    numbers = _NUMBER.findall(tail)
    return numbers[-1].replace(",", "") if numbers else None


def parse_rational(text: str) -> Fraction | None:
    r"""Exact value of an integer, decimal, a/b or \frac{a}{b} in ASCII digits; else None.

    "025" -> 25, "-1.50" -> -3/2, "\frac{-2}{4}" -> -1/2. No exponents: "1e999999999" must not be
    computed.
    """
    text = text.strip()
    if match := _DECIMAL.fullmatch(text):
        whole, _, decimals = match[2].partition(".")
        value = Fraction(int((whole + decimals) or "0"), 10 ** len(decimals))
        return -value if match[1] == "-" else value
    if match := _RATIO.fullmatch(text):
        sign, numerator, denominator = match.groups()
    elif match := _LATEX_RATIO.fullmatch(text):
        sign = match[1]
        numerator, denominator = match[2] or match[3], match[4] or match[5]
    else:
        return None
    if int(denominator) == 0:
        return None
    value = Fraction(int(numerator), int(denominator))
    return -value if sign == "-" else value
