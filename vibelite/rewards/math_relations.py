r"""Ratios and congruences: answers that name a class of numbers, compared exactly."""

from __future__ import annotations

import math
import re
from fractions import Fraction

from vibelite.rewards.answer_text import parse_rational

_RATIO = re.compile(r"[0-9.]+(?:\s*:\s*[0-9.]+)+")
_TO = re.compile(r"\\text\s*\{\s*(?:to|:)\s*\}|\bto\b")
_MODULUS = re.compile(
    r"\s*(?:\\pmod\s*(?:\{\s*(\w+)\s*\}|([0-9A-Za-z]+))"
    r"|\(?\s*\\(?:bmod|mod)(?![A-Za-z])\s*\{?(\w+)\}?\s*\)?"
    r"|\(?\s*(?:\\text\s*\{)?\s*\(?\s*mod\s*\}?\s*(\w+)\s*\)?\s*\}?\)?)$"
)


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
