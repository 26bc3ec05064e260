r"""Answers that are neither one number nor one formula: words, ratios, congruences, intervals.

Each is compared by its own rule, exactly; the end points of intervals are compared elsewhere.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

from vibelite.rewards.answer_text import parse_rational
from vibelite.rewards.math_notation import split_top

_WORD = re.compile(r"[A-Za-z][A-Za-z' -]*")
_SHORT = ("yes", "no", "odd", "all", "any")
# "(C) 12", "\\text{C) }", "Option C": an option's letter and its text.
_LABEL = re.compile(
    r"\s*(?:\\(?:text(?:bf|rm)?|mathrm|mathbf)\s*\{\s*)?"
    r"(?:\(([A-E])\)|([A-E])\)|(?:[Oo]ption|[Cc]hoice)\s+\(?([A-E])\b)"
)
_RATIO = re.compile(r"[0-9.]+(?:\s*:\s*[0-9.]+)+")
_TO = re.compile(r"\\text\s*\{\s*(?:to|:)\s*\}|\bto\b")
_MODULUS = re.compile(
    r"\s*(?:\\pmod\s*(?:\{\s*(\w+)\s*\}|([0-9A-Za-z]+))"
    r"|\(?\s*\\(?:bmod|mod)(?![A-Za-z])\s*\{?(\w+)\}?\s*\)?"
    r"|\(?\s*(?:\\text\s*\{)?\s*\(?\s*mod\s*\}?\s*(\w+)\s*\)?\s*\}?\)?)$"
)
_SINGLE = re.compile(r"\\?[A-Za-z]+")
# "\\{x \\in \\mathbb{R} : x > 2\\}": the condition says all.
_BUILDER = re.compile(
    r"\\\{\s*\\?([A-Za-z]+)\s*(?:\\in\s*\\mathbb\s*\{?R\}?)?\s*(?:\\mid|\||:)(?![A-Za-z])(.*)\\\}"
)
_REALS = re.compile(r"\\mathbb\s*\{?R\}?|\\R|all real(?: number)?s", re.I)
_INEQUALITY = re.compile(r"<=|>=|<|>|\\(?:leqslant|geqslant|leq|geq|le|ge|lt|gt)(?![A-Za-z])")
_BELOW = ("<", "<=", "\\le", "\\leq", "\\lt", "\\leqslant")


def is_words(text: str) -> bool:
    """A text of words, not a product of variables."""
    return bool(_WORD.fullmatch(text)) and (
        " " in text or len(text) > 3 or text.lower() in _SHORT or len(text) > 1 and text.isupper()
    )


def equal_words(first: str, second: str) -> bool:
    """The same words, whatever their case; single letters only in the same case."""
    return _plain(first) == _plain(second)


def option_letter(boxed: str) -> str:
    """The letter that an option begins with; "" for anything else."""
    label = _LABEL.match(boxed)
    return "" if label is None else label[1] or label[2] or label[3]


def _plain(text: str) -> str:
    words = " ".join(text.strip("() ").split())
    return words.casefold() if len(words) > 1 else words


def is_ratio(text: str) -> bool:
    """ "3:4", "1:2:3" """
    return _RATIO.fullmatch(text) is not None


def equal_ratios(given: str, gold: str) -> bool:
    """Proportional numbers, "6:8" or "3/4" for "3:4"; a gold that is not in lowest terms is a time
    of day or a score, which only its own numbers are equal to.
    """
    given = _TO.sub(":", given)
    values = [x for part in given.split(":") if (x := parse_rational(part)) is not None]
    expected = [x for part in gold.split(":") if (x := parse_rational(part)) is not None]
    if values == expected:
        return True
    if any(x.denominator > 1 for x in expected) or math.gcd(*(int(x) for x in expected)) > 1:
        return False
    if len(expected) == 2 and ":" not in given:
        values.append(Fraction(1))
    return len(values) == len(expected) and all(
        a * expected[0] == b * values[0] != 0 for a, b in zip(values, expected, strict=True)
    )


def is_congruence(text: str) -> bool:
    r""" "n \\equiv 1 \\pmod 4" """
    return "\\equiv" in text and _MODULUS.search(text) is not None


def equal_congruences(given: str, gold: str) -> bool:
    """The same modulus and name, and residues that are equal modulo it."""
    first, second = _read_congruence(given), _read_congruence(gold)
    if first is None or second is None:
        return False
    (name, residue, modulus), (gold_name, gold_residue, gold_modulus) = first, second
    if modulus != gold_modulus or (name and name != gold_name):
        return False
    if residue == gold_residue:
        return True
    a, b, m = parse_rational(residue), parse_rational(gold_residue), parse_rational(modulus)
    return None not in (a, b) and bool(m) and (a - b) % m == 0  # pyright: ignore


def without_modulus(text: str) -> str:
    r"""The residue alone: "N \\equiv 29 \\pmod{100}" -> "29"."""
    residue = _MODULUS.sub("", text)
    return residue.rpartition("\\equiv")[2].strip() or text


def _read_congruence(text: str) -> tuple[str, str, str] | None:
    """(name, residue, modulus), the name "" where there is none."""
    match = _MODULUS.search(text)
    if match is None:
        return None
    name, _, residue = text[: match.start()].rpartition("\\equiv")
    modulus = next(group for group in match.groups() if group)
    return "".join(name.split()), residue.strip(), modulus


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
