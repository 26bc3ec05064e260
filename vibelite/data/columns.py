"""Which columns of a table hold what, where the recipe leaves it open and the usual ones are not
there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vibelite.recipe.data_section import Columns, ProblemTable, TraceTable

# What tables call these; the first that is there is taken.
PROMPTS = ("prompt", "question", "problem", "instruction")
ANSWERS = ("final_answer", "ground_truth", "solution")
SUBDOMAINS = ("subdomain", "topic", "subject", "category")
COMPLETIONS = ("completion", "response", "output", "solution", "answer")


def guessed_problem_columns(source: ProblemTable, row: Mapping[str, Any]) -> dict[str, str]:
    """Fields of `source.columns` -> columns of `row`, for fields whose own column is missing.
    Sub-domains are guessed only where the recipe names no column and no sub-domain at all.
    """
    columns, usual = source.columns, Columns()
    found: dict[str, str | None] = {}
    if columns.prompt == usual.prompt and columns.prompt not in row:
        found["prompt"] = _first(PROMPTS, row)
    has_answer = source.verifier not in ("code", "instruct")
    if has_answer and columns.answer == usual.answer and columns.answer not in row:
        found["answer"] = _first(ANSWERS, row)
    if columns == usual and source.subdomain == "all":
        found["subdomain"] = _first(SUBDOMAINS, row)
    return {field: column for field, column in found.items() if column}


def guessed_trace_columns(source: TraceTable, row: Mapping[str, Any]) -> dict[str, str]:
    """Fields of `source` -> columns of `row`, where there is no column of messages."""
    if source.messages_column in row or source.messages_column != "messages":
        return {}
    if "conversations" in row:
        return {"messages_column": "conversations"}
    question, answer = _first(PROMPTS, row), _first(COMPLETIONS, row)
    # An instruction with an input of its own is more than one column of the question.
    if question is None or answer is None or source.completion_column or "input" in row:
        return {}
    return {"messages_column": question, "completion_column": answer}


def _first(names: tuple[str, ...], row: Mapping[str, Any]) -> str | None:
    return next((name for name in names if name in row), None)
