"""Rows of a table to problems and traces, and tables from local files.

A row that does not fit its column mapping is an error with the file's name and the row's number
(for .jsonl the line, else counted from 1), what was found, and what there is instead.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from vibelite.data.code_rows import function_named, own_form
from vibelite.errors import DataError
from vibelite.recipe.data_section import ProblemTable, TraceTable
from vibelite.rewards.answer_text import final_gold
from vibelite.rewards.choice import LETTERS, check_question, question_text
from vibelite.rewards.code_problem import (
    LIMITS,
    PRIVATE_TESTS,
    TESTS,
    lcb_metadata,
    row_metadata,
)
from vibelite.rewards.custom import REWARD_FILE, REWARD_FUNCTION
from vibelite.rewards.instruct import RULES, read_rules
from vibelite.types import Message, Problem, Trace

ROLES = ("system", "user", "assistant", "tool")
# ShareGPT's names for two of them.
SPEAKERS = {"human": "user", "gpt": "assistant"}


@dataclass(frozen=True, slots=True)
class Rows:
    """A table and what to call its rows in messages; `places[i]` is file and line of row i, where
    it has a line.
    """

    name: str
    table: Iterable[Any]
    places: list[str] = field(default_factory=list)

    def at(self, index: int) -> str:
        return self.places[index] if self.places else f"{self.name}: row {index + 1}"


def read_rows(path: Path) -> Rows:
    """Rows of a .jsonl, .json (a list of objects) or .parquet file, or of a directory of .parquet
    files in the order of their names; those of a directory can be gone through once.
    """
    if path.is_dir():
        files = sorted(path.glob("*.parquet"))
        if not files:
            raise DataError(f"{path}: there is no .parquet file in this directory")
        return Rows(str(path), chain.from_iterable(map(_read_parquet, files)))
    if not path.is_file():
        raise DataError(f"{path}: there is no such file (paths are relative to the recipe)")
    match path.suffix:
        case ".jsonl":
            rows = stream_jsonl(str(path), [path])
            return Rows(rows.name, list(rows.table), rows.places)
        case ".json":
            table = parse_json(path.read_text(encoding="utf-8"), str(path))
            if not isinstance(table, list):
                raise DataError(f"{path}: expected a list of objects, found {_kind(table)}")
            return Rows(str(path), table)
        case ".parquet":
            return Rows(str(path), _read_parquet(path))
        case suffix:
            raise DataError(
                f"{path}: cannot read {suffix or 'this'} files; use .jsonl, .json or .parquet"
            )


def stream_jsonl(name: str, paths: Sequence[Path]) -> Rows:
    """The rows of .jsonl files, one file after the other, to be gone through once: only the row in
    hand is in memory. Raises DataError for a file that is not there.
    """
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path}: there is no such file")
    places: list[str] = []

    def table() -> Iterator[Any]:
        for path in paths:
            with open(path, encoding="utf-8") as file:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        places.append(f"{path}:{number}")
                        yield parse_json(line, places[-1])

    return Rows(name, table(), places)


def problem_from_row(row: Any, source: ProblemTable, rows: Rows, index: int) -> Problem:
    """Row `index` (0-based) as a problem.

    A gold that no answer could be compared with, and a test that cannot be run, is an error here
    already, never a lost reward. Of a choice made from columns the right option is A; it is
    shuffled when it is sampled. A custom reward finds the whole row in metadata["row"].
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
    if columns.incorrect:
        incorrect = [_answer(row, name, where) for name in columns.incorrect]
        content = question_text(messages[-1]["content"], [answer, *incorrect])
        messages, answer = _with_content(messages, content), LETTERS[0]
    if source.instruction:
        content = f"{messages[-1]['content']}\n\n{source.instruction}"
        messages = _with_content(messages, content)
    with located(f"{where}: {columns.answer}"):
        if source.verifier == "math":
            answer = final_gold(answer)
        _check_answer(source.verifier, messages, answer)
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


def is_wanted(row: Any, where: Mapping[str, Sequence[str | int]], rows: Rows, index: int) -> bool:
    """Whether row `index` has one of the values that `where` asks for in each of its columns."""
    return all(
        str(cell(row, column, rows.at(index))) in map(str, values)
        for column, values in where.items()
    )


def _with_content(messages: tuple[Message, ...], content: str) -> tuple[Message, ...]:
    """The messages with another text in the last one."""
    return (*messages[:-1], {**messages[-1], "content": content})


def _with_function_name(
    messages: tuple[Message, ...], metadata: Mapping[str, Any]
) -> tuple[Message, ...]:
    """The question with the name of the function that its tests call, where it does not say it: no
    program could pass without.
    """
    name, content = function_named(metadata.get(TESTS)), messages[-1]["content"]
    if not name or name in content:
        return messages
    return _with_content(messages, f"{content}\n\nName the function `{name}`.")


def _tests(row: Any, column: str, where: str) -> dict[str, Any]:
    """What a program is judged by: the tests of column `column`, or of LiveCodeBench's columns."""
    with located(where):
        if column not in row and isinstance(row.get(PRIVATE_TESTS), str):
            return lcb_metadata(row)
        return row_metadata(own_form(cell(row, column, where), row), row.get(LIMITS))


@contextmanager
def located(where: str) -> Iterator[None]:
    """Puts `where` before the message of a DataError that does not say it yet."""
    try:
        yield
    except DataError as error:
        raise DataError(str(error) if where in str(error) else f"{where}: {error}") from error


def _check_answer(verifier: str, messages: tuple[Message, ...], answer: str) -> None:
    """Raises DataError for an answer that no completion could be compared with."""
    match verifier:
        case "math":
            from vibelite.rewards.math_answer import check_gold

            check_gold(answer)
        case "choice":
            check_question(messages[-1]["content"], answer)


def trace_from_row(row: Any, source: TraceTable, rows: Rows, index: int) -> Trace:
    """Row `index` (0-based) as a trace; its last message must be the assistant's."""
    where = rows.at(index)
    messages = _messages(
        cell(row, source.messages_column, where), f"{where}: {source.messages_column}"
    )
    if source.completion_column is not None:
        completion = cell(row, source.completion_column, where)
        answer = [{"role": "assistant", "content": completion}]
        messages += _messages(answer, f"{where}: {source.completion_column}")
    if messages[-1]["role"] != "assistant" or len(messages) < 2:
        raise DataError(
            f"{where}: {source.messages_column} must hold a question and end with an answer"
        )
    subdomain = "all"
    if source.subdomain_column is not None:
        subdomain = _subdomain(row, source.subdomain_column, where)
    return Trace(f"{Path(rows.name).stem}/{index}", subdomain, messages)


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    from pyarrow import ArrowException, parquet

    try:
        return parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file ({error})") from error


def parse_json(text: str | bytes, where: str) -> Any:
    """The value of a JSON text; DataError, which begins with `where`, for anything else."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{where}: not valid JSON ({error})") from error


def require_object(row: Any, where: str) -> None:
    """DataError for a row that has no columns."""
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected an object, found {_kind(row)}")


def cell(row: Any, dotted: str, where: str) -> Any:
    """The value at a dotted path; a column whose own name contains dots wins over the path."""
    require_object(row, where)
    if dotted in row:
        return row[dotted]
    value: Any = row
    for part in dotted.split("."):
        if not isinstance(value, dict) or part not in value:
            there = ", ".join(map(str, value)) if isinstance(value, dict) else _kind(value)
            raise DataError(
                f"{where}: no column {dotted!r}; where {part!r} was looked for there is: {there}"
            )
        value = value[part]
    return value


def _messages(value: Any, where: str) -> tuple[Message, ...]:
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: expected text or a list of chat messages, found {_kind(value)}")
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
        messages.append({"role": role, "content": content})
    return tuple(messages)


def _answer(row: Any, column: str, where: str) -> str:
    """The gold as text: benchmark files have numbers and strings side by side."""
    value = cell(row, column, where)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_answer = isinstance(value, str | int | float) and not isinstance(value, bool)
    if not is_answer or not str(value).strip():
        raise DataError(
            f"{where}: {column}: expected an answer as text or number, found {_kind(value)}"
        )
    return str(value).strip()


def _subdomain(row: Any, column: str, where: str) -> str:
    """A sub-domain's name fit for directories and tables: "Number Theory" -> "Number-Theory"."""
    value = cell(row, column, where)
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", str(value).strip()).strip("-._")[:64]
    if not isinstance(value, str | int) or not name:
        raise DataError(
            f"{where}: {column}: expected the name of a sub-domain, found {_kind(value)}"
        )
    return name


def _kind(value: Any) -> str:
    if value is None:
        return "nothing (null)"
    return f"{type(value).__name__} {str(value)[:60]!r}"
