"""`vibelite decontaminate`: takes evaluation problems, loops and near-duplicates out of a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vibelite.errors import RecipeError

if TYPE_CHECKING:
    from vibelite.data.decontaminate import EvaluationItem

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
    near_duplicates: Annotated[
        float,
        typer.Option(min=0, max=1, help="Drop rows this similar to earlier ones (needs rensa)."),
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Drop training rows that share 10 words in a row with an evaluation problem."""
    from vibelite.data.clean import Cleaner, CleaningRules, describe_items
    from vibelite.data.clean_file import clean_file
    from vibelite.run_dir import write_json_atomic

    train, *more = files
    sources = [*against, *more]
    _require_new(Path(train), output, sources)
    items = [
        item for source in dict.fromkeys(sources) for item in read_evaluation(source, eval_column)
    ]
    cleaner = Cleaner(items, CleaningRules(max_repetition, near_duplicates))
    clean_file(Path(train), output, cleaner, column)
    summary = {
        "train": train,
        "output": str(output),
        "report": str(report or output.with_name(f"{output.name}.report.json")),
        "against": describe_items(items),
        **cleaner.tally.as_json(),
    }
    dropped = cleaner.tally.dropped
    details = {"rules": cleaner.rules.as_json(), "common_ngrams": cleaner.index.common}
    write_json_atomic(Path(summary["report"]), {**summary, **details, "dropped": dropped})
    print(json.dumps(summary, indent=1) if as_json else _as_text(summary, dropped))


def read_evaluation(source: str, column: str = "") -> list[EvaluationItem]:
    """The questions of a benchmark by its name, or of a file; `column` as for `read_items`."""
    from vibelite.data.benchmarks import BENCHMARKS
    from vibelite.data.clean import evaluation_items
    from vibelite.data.clean_file import read_items
    from vibelite.data.sources import load_problems
    from vibelite.recipe.data_section import BenchmarkProblems
    from vibelite.recipe.suggest import did_you_mean

    if source in BENCHMARKS:
        problems = BenchmarkProblems.model_validate({"source": "benchmark", "name": source})
        return list(
            evaluation_items(source, load_problems(problems, recipe_dir=Path.cwd(), seed=0))
        )
    if not Path(source).is_file():
        hint = did_you_mean(source, BENCHMARKS)
        raise RecipeError(f"--against {source}: no such file or benchmark{hint}")
    return read_items(Path(source), column)


def _require_new(train: Path, output: Path, sources: list[str]) -> None:
    """RecipeError where the output would replace an input."""
    for path in (train, *map(Path, sources)):
        if output.resolve() == path.resolve():
            raise RecipeError(f"--output {output}: is one of the inputs; name another file")


def _as_text(summary: dict[str, Any], dropped: list[dict[str, Any]]) -> str:
    lines = [
        f"{row['id']}  {row['rule']}  {row.get('item', '')}  {row.get('text', '')[:SHOWN_CHARS]}"
        for row in dropped[:SHOWN_ROWS]
    ]
    if len(dropped) > SHOWN_ROWS:
        lines.append(f"... and {len(dropped) - SHOWN_ROWS} more in {summary['report']}")
    lines += [f"against {item['name']}: {item['num_items']} items" for item in summary["against"]]
    rules = ", ".join(f"{count} {rule}" for rule, count in summary["by_rule"].items())
    lines.append(
        f"{summary['num_rows']} rows, {summary['num_dropped']} dropped"
        f"{f' ({rules})' if rules else ''}, {summary['num_kept']} kept in {summary['output']}"
    )
    return "\n".join(lines)
