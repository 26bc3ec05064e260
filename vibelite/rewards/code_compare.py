"""Whether a program printed, or a function returned, what was expected: LiveCodeBench's rules.

Its numbers have no tolerance: 1.0 is 1.00, and 0.3333333 is not 0.3333334. Nothing here runs code.
"""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from typing import Any

_SHOWN_CHARS = 40


def output_difference(expected: str, actual: str) -> str:
    """Where two outputs differ, "" where they are equal (LiveCodeBench, `grade_stdio`).

    White space around the output and around each line does not count. Lines are equal as text, or
    where all their words are numbers with equal values: "1.0 2" is "1.00  2", and "yes" not "YES".
    """
    wanted, found = _lines(expected), _lines(actual)
    if len(wanted) != len(found):
        return f"{_count(len(found), 'line')} instead of {len(wanted)}"
    for number, (line, other) in enumerate(zip(wanted, found, strict=True), start=1):
        if line != other and not _are_equal_numbers(line, other):
            return f"line {number} is {_shown(other)} instead of {_shown(line)}"
    return ""


def value_difference(expected: str, actual: bytes) -> str:
    """Where two values in JSON differ, "" where they are equal as Python's values: 5.0 is 5, and
    true is 1 (LiveCodeBench, `grade_call_based`).

    `actual` is whatever the program left: a tuple came as a list, a dictionary's keys as text.
    """
    if not actual:
        return "ended without a value"
    try:
        value: Any = json.loads(actual)
    except (ValueError, RecursionError):
        return f"not a value in JSON: {_shown(actual[:200].decode(errors='replace'))}"
    try:
        are_equal = value == json.loads(expected)
    except RecursionError:
        are_equal = False
    if are_equal:
        return ""
    return f"{_shown(actual[:200].decode(errors='replace'))} instead of {_shown(expected)}"


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().split("\n")]


def _are_equal_numbers(line: str, other: str) -> bool:
    try:
        return list(map(Decimal, line.split())) == list(map(Decimal, other.split()))
    except InvalidOperation:  # not a number, or a signalling NaN
        return False


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}...")
