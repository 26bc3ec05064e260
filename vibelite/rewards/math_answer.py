r"""Mathematical answers: the last balanced \boxed{} against the gold, exactly if both are rational.

Rational numbers are settled here; only what is left goes to math-verify, and of the completion it
only ever sees the box's content (on whole texts it glues two boxes to one number). Debts:
math-verify runs in this process, bounded by limits on the text and, in the main thread, by its own
alarm; and it rounds decimals to six places.
"""

from __future__ import annotations

import functools
import re
import threading
import unicodedata
from typing import Any

from vibelite.errors import DataError
from vibelite.rewards.answer_text import MAX_DIGITS, boxed_answer, judge, parse_rational
from vibelite.types import Verdict

MAX_CHARS = 2000
SYMBOLIC_SECONDS = 5
MAX_DEPTH = 25
# Expressions that sympy computes for minutes: they are not looked at, and the verdict says so.
_EXPENSIVE = re.compile(
    r"!|\\(?:binom|sum|prod|int|lim|det|iint|oint)\b"
    r"|\^\s*\{[\s{(]*[^{}]*[})\s]*\^|\^\s*\w+\s*\^"  # towers of powers
    r"|\^\s*\{?\s*-?[0-9]{4,}"
)
_DROPPED = re.compile(r"\\left(?![a-z])|\\right(?![a-z])|\\displaystyle|\\[,;!: ]|\$|~")
_UNIT = re.compile(r"(?:\^\s*\{?\\circ\}?|\\degree|°|\\?%)$")
_ASSIGNMENT = re.compile(r"^\\?[A-Za-z](?:_\{?\w+\}?)?\s*=\s*(?=[^=]+$)")
_THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}(?:(?:,|\{,\}|\s)[0-9]{3})+(?:\.[0-9]+)?")
_RELATION = re.compile(r"=|<|>|\\(?:le|ge|leq|geq|lt|gt|ne|neq)\b")


def check_math(text: str, answer: str) -> Verdict:
    r"""The last \boxed{} after </think> is mathematically equal to the gold `answer`.

    The detail is "correct", "wrong: ...", or "unverifiable: ..." where the box was too expensive to
    look at.
    """
    boxed, failure = boxed_answer(text)
    if boxed is None:
        return Verdict(0.0, False, failure)
    given, gold = normalise(boxed), normalise(answer)
    if given == gold:
        return Verdict(1.0, True, "correct")
    expected, value = parse_rational(gold), parse_rational(given)
    if expected is not None and value is not None:
        return judge(expected == value, boxed)
    if _RELATION.search(given) and not _RELATION.search(gold):
        return judge(False, boxed)
    if reason := _too_expensive(given, gold):
        return Verdict(0.0, False, f"unverifiable: {reason}: {boxed[:80]}")
    return judge(_equal_symbolically(given, gold), boxed)


def check_gold(answer: str) -> None:
    """Raises DataError for a gold that no answer could be compared with."""
    gold = normalise(answer)
    if not gold or (parse_rational(gold) is None and not _parse(gold)):
        raise DataError(f"the answer {answer!r} cannot be read as mathematics")


def normalise(answer: str) -> str:
    r"""The answer without marks that mean nothing: $, \left, spacing, \text, units, a final dot.

    "x = 1{,}037." -> "1037", "90^\circ" -> "90", "\dfrac12" -> "\frac12".
    """
    text = answer.translate({0x2212: "-", 0x2013: "-", 0x2014: "-", 0x00A0: " ", 0x202F: " "})
    if all(character.isascii() or not character.isnumeric() for character in text):
        text = unicodedata.normalize("NFKC", text)
    # Thousands before spacing is dropped: "1\,037" and "1 037" are one number, "1 2" is not twelve.
    spaced = re.sub(r"\\[,;: ]", " ", text.replace("$", "")).strip().removesuffix(".")
    if _THOUSANDS.fullmatch(spaced):
        return re.sub(r"[\s,{}]", "", spaced)
    text = _DROPPED.sub("", text).strip().removesuffix(".")
    text = re.sub(r"^\\(?:text|mathrm|textbf|mathbf)\{([^{}]*)\}$", r"\1", text.strip())
    text = re.sub(r"\\text\{\s*[A-Za-z. ]+\}$", "", text).strip()
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    text = _ASSIGNMENT.sub("", text)
    return _UNIT.sub("", text).strip()


def _too_expensive(given: str, gold: str) -> str:
    """Why `given` must not be handed to sympy; empty if it may."""
    if len(given) > MAX_CHARS:
        return f"longer than {MAX_CHARS} characters"
    if re.search(rf"[0-9]{{{MAX_DIGITS + 1},}}", given):
        return f"more than {MAX_DIGITS} digits"
    if _EXPENSIVE.search(given) and not _EXPENSIVE.search(gold):
        return "too expensive to compute"
    depth = deepest = 0
    for character in given:
        depth += (character in "{([") - (character in "})]")
        deepest = max(deepest, depth)
    return f"nested deeper than {MAX_DEPTH}" if deepest > MAX_DEPTH else ""


def _equal_symbolically(given: str, gold: str) -> bool:
    from math_verify import verify

    parsed_gold, parsed = _parse(gold), _parse(given)
    return bool(
        parsed_gold and parsed and verify(parsed_gold, parsed, timeout_seconds=_alarm_seconds())
    )


@functools.lru_cache(maxsize=4096)
def _parse(content: str) -> list:
    from math_verify import LatexExtractionConfig, parse

    config = LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False)
    return parse(
        f"\\boxed{{{content}}}",
        extraction_config=[config],
        extraction_mode="first_match",
        parsing_timeout=_alarm_seconds(),
    )


def _alarm_seconds() -> Any:
    """math-verify's own bound; None outside the main thread, where it raises."""
    return SYMBOLIC_SECONDS if threading.current_thread() is threading.main_thread() else None
