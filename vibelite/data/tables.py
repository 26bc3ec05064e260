"""Tables from local files. Whatever cannot be read is an error with the file's name and the row's
number: for .jsonl and .csv the line, else counted from 1.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from vibelite.errors import DataError

UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
MAX_CELL_CHARS = 1 << 30


@dataclass(frozen=True, slots=True)
class Rows:
    """A table; `places[i]` is how messages call row i, where not by its number."""

    name: str
    table: Iterable[Any]
    places: list[str] = field(default_factory=list)

    def at(self, index: int) -> str:
        return self.places[index] if self.places else f"{self.name}: row {index + 1}"


def read_rows(path: Path) -> Rows:
    """Rows of a .jsonl, .csv, .json (a list, or an object a line) or .parquet file, or of a
    directory of .parquet files in the order of their names.
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
            return _read_json(path)
        case ".csv":
            return _read_csv(path)
        case ".parquet":
            return Rows(str(path), _read_parquet(path))
        case suffix:
            raise DataError(
                f"{path}: cannot read {suffix or 'this'} files; use .jsonl, .json, .csv or .parquet"
            )


def stream_jsonl(name: str, paths: Sequence[Path]) -> Rows:
    """The rows of .jsonl files one after the other, to be gone through once, one row in memory."""
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path}: there is no such file")
    places: list[str] = []

    def table() -> Iterator[Any]:
        for path in paths:
            with open(path, "rb") as file:
                for number, line in enumerate(file, start=1):
                    text = decode(line, path, number)
                    if text.strip():
                        places.append(f"{path}:{number}")
                        yield parse_json(text, places[-1])

    return Rows(name, table(), places)


def decode(content: bytes, path: Path, first_line: int = 1) -> str:
    """The text in UTF-8, without a byte order mark; DataError, with file and line, for others."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = first_line + content.count(b"\n", 0, error.start)
        name = "UTF-16" if content.startswith(UTF16_MARKS) else f"byte {content[error.start]:#x}"
        raise DataError(
            f"{path}:{line}: not UTF-8 text ({name}); convert the file, for instance with "
            "`iconv -f UTF-16 -t UTF-8` (CP1252 for one of Windows)"
        ) from error


def parse_json(text: str | bytes, where: str) -> Any:
    """The value of a JSON text; DataError, which begins with `where`, for anything else."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error})") from error


def require_object(row: Any, where: str) -> None:
    """DataError for a row that has no columns."""
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected an object, found {kind(row)}")


def cell(row: Any, dotted: str, where: str) -> Any:
    """The value at a dotted path; a column whose own name contains dots wins over the path."""
    require_object(row, where)
    if dotted in row:
        return row[dotted]
    value: Any = row
    for part in dotted.split("."):
        if not isinstance(value, dict) or part not in value:
            there = ", ".join(map(str, value)) if isinstance(value, dict) else kind(value)
            raise DataError(
                f"{where}: no column {dotted!r}; where {part!r} was looked for there is: {there}"
            )
        value = value[part]
    return value


def kind(value: Any) -> str:
    """A value in a message: its type, and how it begins."""
    return "nothing (null)" if value is None else f"{type(value).__name__} {str(value)[:60]!r}"


def _read_json(path: Path) -> Rows:
    text = decode(path.read_bytes(), path)
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        if getattr(error, "msg", "") != "Extra data":
            raise DataError(f"{path}: not valid JSON ({error})") from error
        # One object a line, as the hub's data sets have it, under whatever name.
        rows = stream_jsonl(str(path), [path])
        return Rows(rows.name, list(rows.table), rows.places)
    if not isinstance(table, list):
        raise DataError(f"{path}: expected a list of objects, found {kind(table)}")
    return Rows(str(path), table)


def _read_csv(path: Path) -> Rows:
    text = decode(path.read_bytes(), path)
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    csv.field_size_limit(MAX_CELL_CHARS)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    table, places = [], []
    try:
        for row in reader:
            places.append(f"{path}:{reader.line_num}")
            if None in row:
                raise DataError(
                    f"{places[-1]}: more cells than the header has columns; put texts with "
                    f"{delimiter!r} in double quotes"
                )
            table.append(row)
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num + 1}: not valid CSV ({error})") from error
    return Rows(str(path), table, places)


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    from pyarrow import ArrowException, parquet

    try:
        return parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file ({error})") from error
