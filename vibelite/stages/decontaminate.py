"""What a run trains on, without what repeats its evaluation problems.

What was dropped is kept in decontamination.json in the run's directory, for each set with a hash of
everything that the decision depends on; a resumed run reads it from there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from vibelite.data.decontaminate import (
    Cleaner,
    EvaluationItem,
    describe_items,
    rules_as_json,
    texts_of,
)
from vibelite.errors import DataError
from vibelite.recipe.data_section import Decontaminate
from vibelite.recipe.schema import Recipe
from vibelite.recipe.stage_section import DistillStage, MGPOStage
from vibelite.run_dir import read_json, write_json_atomic
from vibelite.types import Problem, Trace

Row = TypeVar("Row", Problem, Trace)
FILE_NAME = "decontamination.json"


def is_trained_on(recipe: Recipe, kind: Literal["problems", "traces"], name: str) -> bool:
    """Whether the set is used for training: all traces are, and the problems of the stages that
    learn from answers to them.
    """
    if kind == "traces":
        return True
    learners = (stage for stage in recipe.stages if isinstance(stage, MGPOStage | DistillStage))
    return any(stage.problems == name for stage in learners)


def without_evaluation(
    rows: list[Row],
    key: str,
    items: Sequence[EvaluationItem],
    settings: Decontaminate,
    path: Path,
) -> list[Row]:
    """The rows of the set `key` (problems/NAME or traces/NAME) that repeat none of the evaluation
    `items`. The decision is kept in the file `path`. Raises DataError if no row is left.
    """
    fingerprint = _fingerprint(settings.max_repetition, items, rows)
    found: dict[str, Any] = read_json(path) if path.exists() else {"sets": {}}
    known = found["sets"].get(key)
    if known is None or known["fingerprint"] != fingerprint:
        known = {"fingerprint": fingerprint, **_judge(rows, items, settings.max_repetition)}
        sets = {**found["sets"], key: known}
        head = {"rules": rules_as_json(settings.max_repetition), "against": describe_items(items)}
        write_json_atomic(path, {**head, "sets": sets})
    dropped = {row["row"] for row in known["dropped"]}
    kept = [row for index, row in enumerate(rows) if index not in dropped]
    if not kept:
        raise DataError(
            f"data.decontaminate: all {len(rows)} rows of {key} repeat evaluation problems; see "
            f"{path}"
        )
    return kept


def dropped_counts(run_dir: Path) -> dict[str, Any] | None:
    """Rows seen and dropped for each set, for the manifest; None without decontamination."""
    path = run_dir / FILE_NAME
    if not path.exists():
        return None
    counted = ("num_rows", "num_dropped", "by_rule", "by_set")
    return {
        key: {name: known[name] for name in counted}
        for key, known in read_json(path)["sets"].items()
    }


def _judge(
    rows: Iterable[Problem | Trace], items: Sequence[EvaluationItem], max_repetition: float
) -> dict[str, Any]:
    cleaner = Cleaner(items, max_repetition)
    for index, row in enumerate(rows):
        row_id = row.id if isinstance(row, Problem) else f"{row.problem_id}#{index}"
        cleaner.keeps(row_id, texts_of(row))
    num_short = sum(cleaner.index.num_short.values())
    return {**cleaner.counts(), "num_short_items": num_short, "dropped": cleaner.dropped}


def _fingerprint(
    max_repetition: float, items: Sequence[EvaluationItem], rows: Sequence[Problem | Trace]
) -> str:
    rules = rules_as_json(max_repetition)
    digest = hashlib.sha256(json.dumps([rules, describe_items(items)]).encode())
    for row in rows:
        digest.update(json.dumps(row.messages).encode())
    return digest.hexdigest()
