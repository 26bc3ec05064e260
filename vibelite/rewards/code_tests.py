"""Programs against their tests: right if every test passes, each in a process of its own.

What is expected never enters that process: outputs are compared here, and a program that knows how
it is judged, ends early or writes its own verdict has gained nothing. They are compared by
LiveCodeBench's rules: 1.0 is 1.00, and numbers have no tolerance unless a row's test gives one.
"""

from __future__ import annotations

import math
import re
import time
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import Any

from vibelite.rewards.answer_text import after_thinking
from vibelite.rewards.code_problem import PRIVATE_TESTS, CodeTest, parse_json_value, read_tests
from vibelite.rewards.sandbox import Execution, Sandbox
from vibelite.types import Problem, Verdict

# The metadata of a problem whose completions are programs, not texts with a program in them.
IS_BARE = "is_bare_program"
PASS = "pass"
PYTHON_LABELS = ("python", "python3", "py", "py3")
_FENCE = re.compile(r"([ \t]*)(`{3,})[ \t]*([^`]*)")
_DETAIL_CHARS = 160
_SHOWN_CHARS = 40
# LiveCodeBench runs every program after these imports, in this order, with this recursion limit.
_IMPORTS = """
from string import *; from re import *; from datetime import *; from collections import *
from heapq import *; from bisect import *; from copy import *; from math import *
from random import *; from statistics import *; from itertools import *; from functools import *
from operator import *; from io import *; from sys import *; from json import *
from builtins import *; from typing import *
import string, re, datetime, collections, heapq, bisect, copy, math, random, statistics, itertools
import functools, operator, io, sys, json; sys.setrecursionlimit(50000)
"""


def check_code(problem: Problem, text: str, sandbox: Sandbox) -> Verdict:
    """Runs the program in a completion's text on the problem's tests until one fails.

    The detail is "pass", or why not and on which test: wrong_answer, runtime_error, time_limit,
    memory_limit or output_limit. Raises SandboxError where the sandbox fails, and DataError for
    tests that cannot be read.
    """
    program, reason = program_of(problem, text)
    if program is None:
        return _wrong("wrong_answer", reason)
    tests = read_tests(problem)
    deadline = time.monotonic() + tests.total_seconds
    for number, test in enumerate(tests.tests, start=1):
        seconds = min(tests.limits.seconds, deadline - time.monotonic())
        place = f"test {number} of {len(tests.tests)}"
        if seconds <= 0:
            return _wrong("time_limit", f"{place}: all took more than {tests.total_seconds:g} s")
        has_imports = tests.has_imports or bool(test.function)
        execution = sandbox.run(
            _after_imports(program) if has_imports else program,
            stdin=test.input.encode(errors="replace"),
            function=test.function,
            limits=replace(tests.limits, seconds=seconds),
        )
        outcome, detail = _outcome(execution, test)
        if outcome != PASS:
            return _wrong(outcome, f"{place}: {detail}")
    return Verdict(1.0, True, PASS)


def check_code_cheaply(problem: Problem, text: str) -> Verdict | None:
    """The verdict on a completion without a program; None for one that has to be run."""
    program, reason = program_of(problem, text)
    return _wrong("wrong_answer", reason) if program is None else None


def program_of(problem: Problem, text: str) -> tuple[str | None, str]:
    """The program in a completion of the problem, or None and why there is none."""
    if problem.metadata.get(IS_BARE):
        return text, ""
    return harness_program(text) if PRIVATE_TESTS in problem.metadata else extract_program(text)


def harness_program(text: str) -> tuple[str | None, str]:
    """The lines between the last two that contain three backticks, whatever the label and the
    thinking: the rule of LiveCodeBench's harness (lcb_runner/utils/extraction_utils.py), without
    which scores are not comparable.
    """
    lines = text.split("\n")
    fences = [place for place, line in enumerate(lines) if "```" in line]
    if len(fences) < 2:
        return None, "fewer than two lines with three backticks"
    return "\n".join([*lines[fences[-2] + 1 : fences[-1]], ""]), ""


def extract_program(text: str) -> tuple[str | None, str]:
    """The last closed code block after the thinking that is labelled as Python; without such, the
    last that has no label; else None and why.
    """
    final = after_thinking(text)
    if final is None:
        return None, "unclosed <think>"
    blocks = code_blocks(final)
    for labels in (PYTHON_LABELS, ("",)):
        programs = [content for label, content in blocks if label in labels]
        if programs:
            return programs[-1], ""
    return None, "no closed block of Python code"


def code_blocks(text: str) -> list[tuple[str, str]]:
    """Label in lower case and content of every closed block between lines of three backticks or
    more. An opening line with a label inside a block starts a new one: the other was forgotten.
    """
    blocks, content = [], []
    label, fence, indent = "", "", 0
    for line in text.split("\n"):
        line = line.removesuffix("\r")
        match = _FENCE.fullmatch(line)
        if match is None:
            content.append(_without_indent(line, indent))
        elif not fence or match[3].strip():
            label, fence, indent = _label(match[3]), match[2], len(match[1])
            content = []
        elif len(match[2]) >= len(fence):
            blocks.append((label, "\n".join([*content, ""])))
            fence, indent = "", 0
        else:
            content.append(_without_indent(line, indent))
    return blocks


def reason_of(verdict: Verdict) -> str:
    """The reason of a verdict on code in one word, without the test and its details."""
    return verdict.detail.partition(":")[0]


def _label(info: str) -> str:
    words = info.lower().strip("{}. \t").split()
    return words[0] if words else ""


def _without_indent(line: str, indent: int) -> str:
    start = len(line) - len(line.lstrip(" \t"))
    return line[min(indent, start) :]


def _after_imports(program: str) -> str:
    """The program after LiveCodeBench's imports, its own lines and `from __future__` untouched."""
    return f"{_IMPORTS}exec(compile({program!r}, 'main.py', 'exec', dont_inherit=True))\n"


def _outcome(execution: Execution, test: CodeTest) -> tuple[str, str]:
    """The reason, and what to say beside it."""
    if execution.outcome != "exit":
        lines = execution.detail.strip().splitlines() or ["no message"]
        return execution.outcome, lines[-1].strip()[:_DETAIL_CHARS]
    if test.function:
        difference = value_difference(test.output, execution.result, test.tolerance)
    else:
        printed = execution.stdout.decode(errors="replace")
        difference = output_difference(test.output, printed, test.tolerance)
    return ("wrong_answer", difference) if difference else (PASS, "")


def _wrong(reason: str, detail: str) -> Verdict:
    return Verdict(0.0, False, f"{reason}: {detail}")


def output_difference(expected: str, actual: str, tolerance: float = 0.0) -> str:
    """Where two outputs differ, "" where they are equal (LiveCodeBench, `grade_stdio`).

    White space around the output and around each line does not count. Lines are equal as text, or
    where all their words are numbers with equal values: "1.0 2" is "1.00  2", and "yes" not "YES".
    """
    wanted, found = _lines(expected), _lines(actual)
    if len(wanted) != len(found):
        return f"{_count(len(found), 'line')} instead of {len(wanted)}"
    for number, (line, other) in enumerate(zip(wanted, found, strict=True), start=1):
        if line != other and not _are_equal_numbers(line, other, tolerance):
            return f"line {number} is {_shown(other)} instead of {_shown(line)}"
    return ""


def value_difference(expected: str, actual: bytes, tolerance: float = 0.0) -> str:
    """Where two values in JSON differ, "" where they are equal as Python's values: 5.0 is 5, and
    true is 1 (LiveCodeBench, `grade_call_based`).

    `actual` is whatever the program left: a tuple came as a list, a dictionary's keys as text.
    """
    if not actual:
        return "ended without a value"
    try:
        value: Any = parse_json_value(actual)
    except (ValueError, RecursionError):
        return f"not a value in JSON: {_shown(actual[:200].decode(errors='replace'))}"
    try:
        are_equal = _are_equal_values(value, parse_json_value(expected), tolerance)
    except RecursionError:
        are_equal = False
    if are_equal:
        return ""
    return f"{_shown(actual[:200].decode(errors='replace'))} instead of {_shown(expected)}"


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().split("\n")]


def _are_equal_numbers(line: str, other: str, tolerance: float) -> bool:
    wanted, found = line.split(), other.split()
    with suppress(InvalidOperation):  # not a number, or a signalling NaN
        if list(map(Decimal, wanted)) == list(map(Decimal, found)):
            return True
    return bool(tolerance and len(wanted) == len(found)) and all(
        word == it or _is_close(word, it, tolerance) for word, it in zip(wanted, found, strict=True)
    )


def _are_equal_values(value: Any, expected: Any, tolerance: float) -> bool:
    if value == expected or not tolerance:
        return value == expected
    if isinstance(value, list) and isinstance(expected, list):
        return len(value) == len(expected) and all(
            _are_equal_values(a, b, tolerance) for a, b in zip(value, expected, strict=True)
        )
    if isinstance(value, dict) and isinstance(expected, dict):
        return value.keys() == expected.keys() and all(
            _are_equal_values(value[key], expected[key], tolerance) for key in value
        )
    are_numbers = isinstance(value, int | float) and isinstance(expected, int | float)
    return are_numbers and _is_close(expected, value, tolerance)


def _is_close(expected: Any, actual: Any, tolerance: float) -> bool:
    """Whether two numbers, or texts of numbers, differ by at most the tolerance, taken absolutely
    or of the expected one.
    """
    try:
        wanted, found = float(expected), float(actual)
    except (ValueError, OverflowError):
        return False
    return math.isfinite(wanted) and abs(wanted - found) <= tolerance * max(1.0, abs(wanted))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}...")
