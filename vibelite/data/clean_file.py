"""Streams a .jsonl or .parquet file through a `Cleaner`: kept rows go to a new file unchanged.

A line of .jsonl is copied byte for byte; of .parquet whole columns are copied, so types stay.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vibelite.data.clean import Cleaner, Text
from vibelite.data.decontaminate import EvaluationItem
from vibelite.data.rows import read_rows
from vibelite.errors import DataError

SUFFIXES = (".jsonl", ".parquet")
# Where the question of an evaluation row is looked for, in this order.
QUESTION_COLUMNS = ("prompt", "problem", "question", "messages", "question_content", "text")
# Columns that hold what a model would learn to write, where rows are not chat messages.
ANSWER_COLUMNS = ("completion", "response", "solution", "generation", "output")
ROWS_PER_BATCH = 4096


def clean_file(source: Path, target: Path, cleaner: Cleaner, columns: Sequence[str] = ()) -> None:
    """Writes the rows of `source` that `cleaner` keeps to `target`, whole or not at all.

    `columns` (dotted paths) are looked at; none = every text in the row. Raises DataError for files
    that cannot be read, with the line.
    """
    if source.suffix not in SUFFIXES:
        raise DataError(f"{source}: must end in {' or '.join(SUFFIXES)}")
    if target.suffix != source.suffix:
        raise DataError(f"{target}: must end in {source.suffix}, as {source} does")
    if not source.is_file():
        raise DataError(f"{source}: no such file")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    if source.suffix == ".jsonl":
        _clean_jsonl(source, temporary, cleaner, columns)
    else:
        _clean_parquet(source, temporary, cleaner, columns)
    os.replace(temporary, target)


def read_items(path: Path, column: str = "") -> list[EvaluationItem]:
    """The questions of an evaluation file; `column` "" = the first of QUESTION_COLUMNS there is."""
    rows = read_rows(path)
    items = []
    for index, row in enumerate(rows.table):
        where = rows.at(index)
        if not isinstance(row, dict):
            raise DataError(f"{where}: expected an object, found {type(row).__name__}")
        chosen = column or next((name for name in QUESTION_COLUMNS if name in row), "")
        if not chosen:
            raise DataError(
                f"{where}: none of the columns {', '.join(QUESTION_COLUMNS)}; name the question's "
                f"with --eval-column; there are: {', '.join(map(str, row))}"
            )
        asked = [text.content for text in texts_in(_cell(row, chosen, where)) if not text.is_answer]
        items.append(EvaluationItem(str(path), row_id(row, path, index), "\n".join(asked)))
    if not items:
        raise DataError(f"{path}: no rows")
    return items


def row_id(row: dict[str, Any], path: Path, index: int) -> str:
    """The row's own `id`, or else the file's name and the row's 0-based number."""
    own = row.get("id")
    return str(own) if isinstance(own, str | int) and own != "" else f"{path.stem}/{index}"


def texts_in(value: Any, *, is_answer: bool = False) -> Iterator[Text]:
    """Every text inside a value, those of chat messages with their role."""
    match value:
        case str():
            if value:
                yield Text(value, is_answer)
        case {"role": str(role), "content": content}:
            if role != "system":
                yield from texts_in(content, is_answer=role == "assistant")
        case dict():
            for name, inner in value.items():
                yield from texts_in(inner, is_answer=is_answer or name in ANSWER_COLUMNS)
        case list():
            for inner in value:
                yield from texts_in(inner, is_answer=is_answer)


def _texts(row: Any, columns: Sequence[str], where: str) -> list[Text]:
    if not columns:
        return list(texts_in(row))
    return [
        text
        for name in columns
        for text in texts_in(_cell(row, name, where), is_answer=name in ANSWER_COLUMNS)
    ]


def _cell(row: dict[str, Any], dotted: str, where: str) -> Any:
    value: Any = row
    for part in [dotted] if dotted in row else dotted.split("."):
        if not isinstance(value, dict) or part not in value:
            there = ", ".join(map(str, row))
            raise DataError(f"{where}: no column {dotted!r}; there are: {there}")
        value = value[part]
    return value


def _clean_jsonl(source: Path, target: Path, cleaner: Cleaner, columns: Sequence[str]) -> None:
    index = 0
    with open(source, "rb") as lines, open(target, "wb") as kept:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{source}:{number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{where}: not valid JSON ({error})") from error
            if not isinstance(row, dict):
                raise DataError(f"{where}: expected an object, found {type(row).__name__}")
            if cleaner.keeps(row_id(row, source, index), _texts(row, columns, where)):
                kept.write(line if line.endswith(b"\n") else line + b"\n")
            index += 1


def _clean_parquet(source: Path, target: Path, cleaner: Cleaner, columns: Sequence[str]) -> None:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(source)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{source}: not a readable parquet file ({error})") from error
    index = 0
    with file, parquet.ParquetWriter(target, file.schema_arrow) as writer:
        for batch in file.iter_batches(ROWS_PER_BATCH):
            mask = []
            for row in batch.to_pylist():
                texts = _texts(row, columns, f"{source}: row {index + 1}")
                mask.append(cleaner.keeps(row_id(row, source, index), texts))
                index += 1
            writer.write_batch(batch.filter(pyarrow.array(mask, pyarrow.bool_())))
