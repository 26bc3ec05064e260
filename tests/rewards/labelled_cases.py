"""Labelled cases: what a model wrote, the gold, and the verdict that a person gives."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from vibelite.types import Verdict

OUTCOMES = {True: "correct", False: "wrong", None: "unverifiable"}


def load_cases(name: str, known_wrong: Mapping[tuple[str, str], str]) -> list[Any]:
    """The rows of a file beside this one as parameters. Of `known_wrong`, (prediction, answer) ->
    why, each is expected to fail, and a test that passes all the same is an error.
    """
    path = Path(__file__).with_name(name)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    keys = [(row["prediction"], row["answer"]) for row in rows]
    assert len(set(keys)) == len(keys), f"{name}: a case appears twice"
    assert set(known_wrong) <= set(keys), f"{name}: a known wrong case is not there"
    return [
        pytest.param(
            row,
            id=f"{number}-{row['note']}",
            marks=[pytest.mark.xfail(reason=known_wrong[key], strict=True)]
            if key in known_wrong
            else [],
        )
        for number, (key, row) in enumerate(zip(keys, rows, strict=True), 1)
    ]


def outcome_of(verdict: Verdict) -> str:
    assert verdict.failure is None, verdict.detail
    assert verdict.reward == float(verdict.correct is True)
    return OUTCOMES[verdict.correct]
