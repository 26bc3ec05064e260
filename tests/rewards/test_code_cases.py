"""Programs and completions with a known verdict, through the command's own reader and pool."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vibelite.commands.verify import as_line, judge_rows, read_rows_to_verify
from vibelite.rewards.pool import VerifierPool

FILE = Path(__file__).with_name("code_cases.jsonl")
CASES = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
REASONS = {"pass", "wrong_answer", "runtime_error", "time_limit", "memory_limit", "output_limit"}


@pytest.fixture(scope="module")
def verdicts() -> Iterator[dict[str, dict[str, Any]]]:
    with VerifierPool(num_workers=1) as pool:
        judged = list(judge_rows(read_rows_to_verify(FILE, ""), pool))
    yield {case["note"]: as_line(row) for case, row in zip(CASES, judged, strict=True)}


def test_there_are_enough_different_cases_of_every_reason() -> None:
    reasons = [case["reason"] for case in CASES]
    assert len(CASES) >= 60 and set(reasons) == REASONS
    assert len({case["note"] for case in CASES}) == len(CASES)
    assert 0.25 < reasons.count("pass") / len(reasons) < 0.75


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["note"])
def test_the_verdict_is_the_known_one(case: dict[str, Any], verdicts: dict[str, Any]) -> None:
    verdict = verdicts[case["note"]]
    assert verdict["reason"] == case["reason"]
    assert verdict["correct"] is (case["reason"] == "pass")
    assert verdict["seconds"] < 4
