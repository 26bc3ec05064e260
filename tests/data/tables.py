"""Tables on disk, and the problems in them."""

import json
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from vibelite.data.sources import load_problems
from vibelite.recipe.data_section import BenchmarkProblems, ProblemTable
from vibelite.types import Problem


def write(path: Path, rows: list[Any]) -> Path:
    """A table in the format that the file's name says."""
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def load(path: Path, **values: Any) -> list[Problem]:
    source = ProblemTable.model_validate({"source": "file", "path": path.name, **values})
    return load_problems(source, recipe_dir=path.parent, seed=0)


def benchmark(name: str, path: Path, **values: Any) -> BenchmarkProblems:
    return BenchmarkProblems.model_validate(
        {"source": "benchmark", "name": name, "path": str(path), **values}
    )


def load_benchmark(name: str, path: Path, **values: Any) -> list[Problem]:
    return load_problems(benchmark(name, path, **values), recipe_dir=Path.cwd(), seed=0)
