"""Programs against their tests: right if every test passes, each in a process of its own.

What is expected never enters that process: outputs are compared here, and a program that knows how
it is judged, ends early or writes its own verdict has gained nothing.
"""

from __future__ import annotations

import re
import time
from dataclasses import replace

from vibelite.rewards.answer_text import after_thinking
from vibelite.rewards.code_compare import output_difference, value_difference
from vibelite.rewards.code_problem import CodeTest, read_tests
from vibelite.rewards.sandbox import Execution, Sandbox
from vibelite.types import Problem, Verdict

# The metadata of a problem whose completions are programs, not texts with a program in them.
IS_BARE = "is_bare_program"
PASS = "pass"
PYTHON_LABELS = ("python", "python3", "py", "py3")
_FENCE = re.compile(r"([ \t]*)(`{3,})[ \t]*([^`]*)")
_DETAIL_CHARS = 160
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
    return (text, "") if problem.metadata.get(IS_BARE) else extract_program(text)


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
        difference = value_difference(test.output, execution.result)
    else:
        difference = output_difference(test.output, execution.stdout.decode(errors="replace"))
    return ("wrong_answer", difference) if difference else (PASS, "")


def _wrong(reason: str, detail: str) -> Verdict:
    return Verdict(0.0, False, f"{reason}: {detail}")
