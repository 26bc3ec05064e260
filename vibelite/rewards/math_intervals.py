r"""Intervals, their unions, and the inequalities in one variable that say the same.

Text to text: end points are compared elsewhere.
"""

from __future__ import annotations

import re

from vibelite.rewards.math_notation import split_top

_SINGLE = re.compile(r"\\?[A-Za-z]+")
# "\\{x \\in \\mathbb{R} : x > 2\\}": the condition says all.
_BUILDER = re.compile(
    r"\\\{\s*\\?([A-Za-z]+)\s*(?:\\in\s*\\mathbb\s*\{?R\}?)?\s*(?:\\mid|\||:)(?![A-Za-z])(.*)\\\}"
)
_REALS = re.compile(r"\\mathbb\s*\{?R\}?|\\R|all real(?: number)?s", re.I)
_INEQUALITY = re.compile(r"<=|>=|<|>|\\(?:leqslant|geqslant|leq|geq|le|ge|lt|gt)(?![A-Za-z])")
_BELOW = ("<", "<=", "\\le", "\\leq", "\\lt", "\\leqslant")


def as_union(text: str) -> list[str]:
    r"""The intervals of a union, also where inequalities in one variable say the same; the text
    itself where it is neither.

    "x<2 \text{ or } 3\le x<5" -> ["(-\infty,2)", "[3,5)"]; "(1,2) \cup (3,4)" -> the two.
    """
    text = re.sub(r"^\\?[A-Za-z]+\s*\\in(?![A-Za-z])", "", text).strip()
    if (
        (built := _BUILDER.fullmatch(text))
        and built[1] in built[2]
        and _INEQUALITY.search(built[2])
    ):
        text = built[2].strip()
    if _REALS.fullmatch(text):
        return ["(-\\infty,\\infty)"]
    parts = [part.strip() for part in re.split(r"\\cup(?![A-Za-z])", text)]
    if len(parts) == 1:
        parts = split_top(text) if _INEQUALITY.search(text) else parts
    return [_interval(part) or part for part in parts]


def _interval(text: str) -> str:
    """An inequality in one variable as an interval; "" for anything else."""
    signs = _INEQUALITY.findall(text)
    sides = [side.strip() for side in _INEQUALITY.split(text)]
    if len(signs) not in (1, 2) or not all(sides):
        return ""
    upward = [sign in _BELOW for sign in signs]
    if len(set(upward)) > 1:
        return ""
    if not upward[0]:
        signs, sides = signs[::-1], sides[::-1]
    closed = [len(sign) > 1 and sign not in ("\\lt", "\\gt") for sign in signs]
    if len(sides) == 3 and _SINGLE.fullmatch(sides[1]):
        return f"{'[' if closed[0] else '('}{sides[0]},{sides[2]}{']' if closed[1] else ')'}"
    if len(sides) == 2 and _SINGLE.fullmatch(sides[0]):
        return f"(-\\infty,{sides[1]}{']' if closed[0] else ')'}"
    if len(sides) == 2 and _SINGLE.fullmatch(sides[1]):
        return f"{'[' if closed[0] else '('}{sides[0]},\\infty)"
    return ""
