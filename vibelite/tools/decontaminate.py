"""`vibelite decontaminate`: a .jsonl or .parquet file without the rows that must not be trained on.

Rows that stay are copied unchanged: lines of .jsonl byte for byte, of .parquet whole columns, so
that types stay. What is dropped is decided in `vibelite.data.decontaminate`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vibelite.commands.options import AsJson, print_json
from vibelite.errors import DataError, RecipeError

if TYPE_CHECKING:
    from vibelite.data.decontaminate import Cleaner, EvaluationItem, Text

SUFFIXES = (".jsonl", ".parquet")
# Where the question of an evaluation row is looked for, in this order.
QUESTION_COLUMNS = ("prompt", "problem", "question", "messages", "question_content", "text")
# Columns that hold what a model would learn to write, where rows are not chat messages.
ANSWER_COLUMNS = ("completion", "response", "solution", "generation", "output")
ROWS_PER_BATCH = 4096
SHOWN_CHARS = 100
SHOWN_ROWS = 5


def decontaminate(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="TRAIN [EVAL]...", help="The .jsonl or .parquet file that is to be trained on."
        ),
    ],
    against: Annotated[
        list[str],
        typer.Option(metavar="EVAL...", help="Evaluation files, or names such as aime25."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The rows that are kept.")],
    report: Annotated[
        Path | None, typer.Option(help="What was dropped, and why; default OUTPUT.report.json.")
    ] = None,
    column: Annotated[
        list[str], typer.Option(help="Columns of TRAIN to look at; default: all texts.")
    ] = [],  # noqa: B006 - typer copies it
    eval_column: Annotated[
        str, typer.Option(help="The question in evaluation files; default: prompt, problem, ...")
    ] = "",
    max_repetition: Annotated[
        float, typer.Option(min=0, max=1, help="Drop answers that repeat a larger share; 1 = none.")
    ] = 0.5,
    as_json: AsJson = False,
) -> None:
    """Drop training rows that share 10 words in a row with an evaluation problem, or are one.

    vibelite decontaminate train.jsonl --against aime25 -o clean.jsonl
    """
    from vibelite.data.decontaminate import Cleaner, describe_items, rules_as_json
    from vibelite.run_dir import write_json_atomic

    train, *more = files
    sources = [*against, *more]
    if output.resolve() in {Path(path).resolve() for path in (train, *sources)}:
        raise RecipeError(f"--output {output}: is one of the inputs; name another file")
    items = [
        item for source in dict.fromkeys(sources) for item in read_evaluation(source, eval_column)
    ]
    cleaner = Cleaner(items, max_repetition)
    clean_file(Path(train), output, cleaner, column)
    summary = {
        "train": train,
        "output": str(output),
        "report": str(report or output.with_name(f"{output.name}.report.json")),
        "against": [
            one | {"num_short": cleaner.index.num_short.get(one["name"], 0)}
            for one in describe_items(items)
        ],
        **cleaner.counts(),
    }
    details = {"rules": rules_as_json(max_repetition), "dropped": cleaner.dropped}
    write_json_atomic(Path(summary["report"]), summary | details)
    if as_json:
        print_json(summary)
    else:
        print(_as_text(summary, cleaner.dropped))


def read_evaluation(source: str, column: str = "") -> list[EvaluationItem]:
    """The questions of a benchmark by its name, or of a file; `column` as for `read_items`."""
    from vibelite.data.benchmarks import BENCHMARKS
    from vibelite.data.decontaminate import evaluation_items
    from vibelite.data.sources import load_problems
    from vibelite.recipe.data_section import BenchmarkProblems
    from vibelite.recipe.suggest import did_you_mean

    if source in BENCHMARKS:
        benchmark = BenchmarkProblems.model_validate({"source": "benchmark", "name": source})
        problems = load_problems(benchmark, recipe_dir=Path.cwd(), seed=0)
        return list(evaluation_items(source, problems))
    if not Path(source).is_file():
        hint = did_you_mean(source, BENCHMARKS)
        raise RecipeError(f"--against {source}: no such file or benchmark{hint}")
    return read_items(Path(source), column)


def read_items(path: Path, column: str = "") -> list[EvaluationItem]:
    """The questions of an evaluation file; `column` "" = the first of QUESTION_COLUMNS there is."""
    from vibelite.data.decontaminate import EvaluationItem
    from vibelite.data.tables import cell, read_rows, require_object

    rows = read_rows(path)
    items = []
    for index, row in enumerate(rows.table):
        where = rows.at(index)
        require_object(row, where)
        chosen = column or next((name for name in QUESTION_COLUMNS if name in row), "")
        if not chosen:
            raise DataError(
                f"{where}: none of the columns {', '.join(QUESTION_COLUMNS)}; name the question's "
                f"with --eval-column; there are: {', '.join(map(str, row))}"
            )
        asked = [text.content for text in texts_in(cell(row, chosen, where)) if not text.is_answer]
        items.append(EvaluationItem(str(path), _row_id(row, path, index), "\n".join(asked)))
    if not items:
        raise DataError(f"{path}: no rows")
    return items


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
    clean = _clean_jsonl if source.suffix == ".jsonl" else _clean_parquet
    clean(source, temporary, cleaner, columns)
    os.replace(temporary, target)


def texts_in(value: Any, *, is_answer: bool = False) -> Iterator[Text]:
    """Every text inside a value, those of chat messages with their role."""
    from vibelite.data.decontaminate import Text

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


def _keeps(
    cleaner: Cleaner, row: Any, columns: Sequence[str], place: tuple[Path, int, str]
) -> bool:
    """Whether a row stays; `place` is its file, its 0-based number and how messages name it."""
    from vibelite.data.tables import cell, require_object

    path, index, where = place
    require_object(row, where)
    texts = [
        text
        for name in columns
        for text in texts_in(cell(row, name, where), is_answer=name in ANSWER_COLUMNS)
    ]
    return cleaner.keeps(_row_id(row, path, index), texts if columns else list(texts_in(row)))


def _row_id(row: dict[str, Any], path: Path, index: int) -> str:
    """The row's own `id`, or else the file's name and the row's 0-based number."""
    own = row.get("id")
    return str(own) if isinstance(own, str | int) and own != "" else f"{path.stem}/{index}"


def _clean_jsonl(source: Path, target: Path, cleaner: Cleaner, columns: Sequence[str]) -> None:
    from vibelite.data.tables import parse_json

    index = 0
    with open(source, "rb") as lines, open(target, "wb") as kept:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{source}:{number}"
            if _keeps(cleaner, parse_json(line, where), columns, (source, index, where)):
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
                place = (source, index, f"{source}: row {index + 1}")
                mask.append(_keeps(cleaner, row, columns, place))
                index += 1
            writer.write_batch(batch.filter(pyarrow.array(mask, pyarrow.bool_())))


def _as_text(summary: dict[str, Any], dropped: list[dict[str, Any]]) -> str:
    lines = [
        f"{row['id']}  {row['rule']}  {row.get('item', '')}  {row.get('text', '')[:SHOWN_CHARS]}"
        for row in dropped[:SHOWN_ROWS]
    ]
    if len(dropped) > SHOWN_ROWS:
        lines.append(f"... and {len(dropped) - SHOWN_ROWS} more in {summary['report']}")
    for item in summary["against"]:
        lines.append(f"against {item['name']}: {item['num_items']} items")
        if item["num_short"]:
            lines[-1] += (
                f", {item['num_short']} of them without ten words of their own: "
                "only rows that are one of these from end to end are dropped"
            )
    rules = ", ".join(f"{count} {rule}" for rule, count in summary["by_rule"].items())
    lines.append(
        f"{summary['num_rows']} rows, {summary['num_dropped']} dropped"
        f"{f' ({rules})' if rules else ''}, {summary['num_kept']} kept in {summary['output']}"
    )
    return "\n".join(lines)
