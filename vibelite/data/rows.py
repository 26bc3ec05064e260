"""Rows of a table to problems and traces; what does not fit is an error with its place."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vibelite.data.tables import Rows, cell, kind
from vibelite.errors import DataError
from vibelite.recipe.data_section import ProblemTable, TraceTable
from vibelite.rewards.answer_text import final_gold
from vibelite.rewards.choice import LETTERS, check_question, question_text
from vibelite.rewards.code_problem import LIMITS, PRIVATE_TESTS, TESTS, lcb_metadata, row_metadata
from vibelite.rewards.custom import REWARD_FILE, REWARD_FUNCTION
from vibelite.rewards.instruct import RULES, read_rules
from vibelite.rewards.math_answer import check_gold
from vibelite.types import Message, Problem, Trace

ROLES = ("system", "user", "assistant", "tool")
# ShareGPT's names for two of them.
SPEAKERS = {"human": "user", "gpt": "assistant"}
# Longer golds without a box are sentences, of which no completion has the same.
MAX_GOLD_WORDS = 20
_WORD = re.compile(r"(?<![\\\w])[A-Za-z]{2,}")
# How a text begins that holds messages.
_MESSAGES = re.compile(r"""\s*\[\s*\{\s*["'](?:role|from|content|value)["']\s*:""")


def problem_from_row(row: Any, source: ProblemTable, rows: Rows, index: int) -> Problem:
    """Row `index` (0-based) as a problem. DataError for a gold that no answer could equal and for
    tests that cannot be run. Of a choice made from columns the right option is A, until it is
    shuffled.
    """
    columns, where = source.columns, rows.at(index)
    messages = _messages(cell(row, columns.prompt, where), f"{where}: {columns.prompt}")
    if messages[-1]["role"] == "assistant":
        raise DataError(
            f"{where}: {columns.prompt} ends with an answer of the assistant, not with a question"
        )
    metadata, answer = {}, ""
    if source.verifier == "code":
        metadata = _tests(row, columns.tests, where)
        messages = _with_function_name(messages, metadata)
    elif source.verifier == "instruct":
        with located(f"{where}: {columns.rules}"):
            metadata = {RULES: read_rules(cell(row, columns.rules, where))}
    else:
        answer = _answer(row, columns.answer, where)
    if source.verifier == "math":
        with located(f"{where}: {columns.answer}"):
            answer = gold_in(answer)
    if columns.incorrect:
        incorrect = [_answer(row, name, where) for name in columns.incorrect]
        content = question_text(messages[-1]["content"], [answer, *incorrect])
        messages, answer = _with_content(messages, content), LETTERS[0]
    if source.instruction:
        content = f"{messages[-1]['content']}\n\n{source.instruction}"
        messages = _with_content(messages, content)
    with located(f"{where}: {columns.answer}"):
        if source.verifier == "math":
            check_gold(answer)
        elif source.verifier == "choice":
            check_question(messages[-1]["content"], answer)
    subdomain = source.subdomain
    if columns.subdomain is not None:
        value = str(cell(row, columns.subdomain, where))
        subdomain = columns.subdomains.get(value) or _subdomain(row, columns.subdomain, where)
    problem_id = f"{Path(rows.name).stem}/{index}"
    if columns.id is not None:
        problem_id = str(cell(row, columns.id, where))
    if source.reward is not None:
        metadata = {REWARD_FILE: source.reward.file, REWARD_FUNCTION: source.reward.function}
        metadata["row"] = row
    return Problem(problem_id, subdomain, messages, answer, source.verifier, metadata=metadata)


def _with_content(messages: tuple[Message, ...], content: str) -> tuple[Message, ...]:
    return (*messages[:-1], {**messages[-1], "content": content})


def own_form(tests: Any) -> Any:
    """The `tests` of a row, those of TACO in the project's form; others are judged elsewhere.
    Raises DataError for TACO's form with parts missing.
    """
    if isinstance(tests, str):
        try:
            tests = json.loads(tests)
        except ValueError as error:
            raise DataError(f"tests: not valid JSON ({error})") from error
    if not (isinstance(tests, dict) and "inputs" in tests and "outputs" in tests):
        return tests
    inputs, outputs = tests["inputs"], tests["outputs"]
    if not isinstance(inputs, list) or not isinstance(outputs, list) or len(inputs) != len(outputs):
        raise DataError("tests: inputs and outputs must be lists of the same length")
    pairs = zip(inputs, outputs, strict=True)
    if name := tests.get("fn_name"):
        return [_call(name, given, wanted) for given, wanted in pairs]
    return [
        {"type": "stdin", "input": _lines(given), "output": _lines(wanted)}
        for given, wanted in pairs
    ]


def _call(name: str, given: Any, wanted: Any) -> dict[str, Any]:
    """A test of a function; TACO puts what it returns into a list of one."""
    is_wrapped = isinstance(wanted, list) and len(wanted) == 1
    return {
        "type": "functional",
        "fn_name": name,
        "input": "\n".join(map(json.dumps, given)) if isinstance(given, list) else given,
        "output": json.dumps(wanted[0] if is_wrapped else wanted),
    }


def _lines(value: Any) -> Any:
    is_lines = isinstance(value, list) and all(isinstance(line, str) for line in value)
    return "\n".join(value) if is_lines else value


def _with_function_name(
    messages: tuple[Message, ...], metadata: Mapping[str, Any]
) -> tuple[Message, ...]:
    """The question with the name of the function that its tests call, where it does not say it."""
    first, content = (metadata.get(TESTS) or [{}])[0], messages[-1]["content"]
    name = first.get("fn_name")
    if not name or name in content:
        return messages
    return _with_content(messages, f"{content}\n\nName the function `{name}`.")


def _tests(row: Any, column: str, where: str) -> dict[str, Any]:
    with located(where):
        if column not in row and isinstance(row.get(PRIVATE_TESTS), str):
            return lcb_metadata(row)
        return row_metadata(own_form(cell(row, column, where)), row.get(LIMITS))


@contextmanager
def located(where: str) -> Iterator[None]:
    """Puts `where` before the message of a DataError that does not say it yet."""
    try:
        yield
    except DataError as error:
        raise DataError(str(error) if where in str(error) else f"{where}: {error}") from error


def traces_from_row(row: Any, source: TraceTable, rows: Rows, index: int) -> list[Trace]:
    """Row `index` (0-based) as traces, more than one or none where its answers are a list; the last
    message must be the assistant's.
    """
    where = rows.at(index)
    messages = _messages(
        cell(row, source.messages_column, where), f"{where}: {source.messages_column}"
    )
    subdomain = "all"
    if source.subdomain_column is not None:
        subdomain = _subdomain(row, source.subdomain_column, where)
    traces = []
    for path, answer in _answers(row, source, where).items():
        whole = messages + answer
        if whole[-1]["role"] != "assistant" or len(whole) < 2:
            raise DataError(
                f"{where}: {source.messages_column} must hold a question and end with an answer"
            )
        traces.append(Trace(f"{Path(rows.name).stem}/{index}", subdomain, whole, path))
    return traces


def _answers(row: Any, source: TraceTable, where: str) -> dict[str, tuple[Message, ...]]:
    """Path -> the assistant's message; of a list only what `verified_column` says is right."""
    column = source.completion_column
    if column is None:
        return {"": ()}
    value = cell(row, column, where)
    found = {"": value}
    if isinstance(value, list):
        found = {str(place): text for place, text in enumerate(value)}
    if source.verified_column is not None:
        verified = cell(row, source.verified_column, where)
        if not isinstance(value, list) or not isinstance(verified, list | None):
            raise DataError(f"{where}: {column} and {source.verified_column} must be lists")
        right = [flag is True for flag in verified or [None] * len(value)]
        if len(right) != len(value):
            raise DataError(
                f"{where}: {column} has {len(value)} answers, and {source.verified_column} "
                f"{len(right)} values"
            )
        found = {path: text for path, text in found.items() if right[int(path)]}
    return {
        path: _messages([{"role": "assistant", "content": text}], f"{where}: {column}")
        for path, text in found.items()
    }


def _messages(value: Any, where: str) -> tuple[Message, ...]:
    if isinstance(value, str):
        value = _written_messages(value) or [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: expected text or a list of chat messages, found {kind(value)}")
    messages = []
    for message in value:
        role, content = None, None
        if isinstance(message, dict):
            role = message.get("role", message.get("from"))
            content = message.get("content", message.get("value"))
        role = SPEAKERS.get(str(role), role)
        if role not in ROLES or not isinstance(content, str) or not content.strip():
            raise DataError(
                f"{where}: a message needs a role ({', '.join(ROLES)}) and a text as content, "
                f"found {str(message)[:120]!r}"
            )
        messages.append({"role": role, "content": require_characters(content, where)})
    return tuple(messages)


def require_characters(text: str, where: str) -> str:
    """The text; DataError for half a character (a lone surrogate, which no tokenizer takes)."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half, before = ord(text[error.start]), text[max(0, error.start - 20) : error.start]
        raise DataError(
            f"{where}: half of a character (\\u{half:04x}, a lone surrogate) after {before!r}; "
            "mend it or leave the row out"
        ) from error
    return text


def _written_messages(text: str) -> list[Any] | None:
    """Messages that an export wrote as text, in JSON or as Python shows them, else None."""
    if not _MESSAGES.match(text):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def _answer(row: Any, column: str, where: str) -> str:
    """The gold as text: benchmark files have numbers and strings side by side."""
    value = cell(row, column, where)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_answer = isinstance(value, str | int | float) and not isinstance(value, bool)
    if isinstance(value, float) and not math.isfinite(value):
        raise DataError(f"{where}: {column}: {value} is no answer that a completion could equal")
    if not is_answer or not str(value).strip():
        raise DataError(
            f"{where}: {column}: expected an answer as text or number, found {kind(value)}"
        )
    return require_characters(str(value), f"{where}: {column}").strip()


def gold_in(answer: str) -> str:
    r"""The gold of an answer: its last \boxed{}, or what follows the last "####" as in GSM8K.
    DataError for a whole solution that has neither.
    """
    gold = final_gold(answer)
    if gold == answer.strip() and len(_WORD.findall(gold)) > MAX_GOLD_WORDS:
        raise DataError(
            f"{answer[:60]!r}... is a whole solution, without a \\boxed{{}} or #### that says "
            "which part of it is the answer"
        )
    return gold


def _subdomain(row: Any, column: str, where: str) -> str:
    value = cell(row, column, where)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", str(value).strip()).strip("-._")[:64]
    if not isinstance(value, str | int) or not name:
        raise DataError(
            f"{where}: {column}: expected the name of a sub-domain, found {kind(value)}"
        )
    return name
