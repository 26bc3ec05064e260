"""Labelled answers and programs: the verdict is the one that a person gives, one test each.

The files beside this one hold, a line each, what a model wrote, the gold or the tests, and the
verdict. Rows go through the reader and the pool of `vibelite verify`.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from vibelite.commands.verify import as_line, judge_rows, read_rows_to_verify
from vibelite.rewards.pool import VerifierPool

DIRECTORY = Path(__file__).parent
CORRECT = {"correct": True, "wrong": False, "unverifiable": None}
# Predictions that are judged otherwise than a person would -> why. Others are errors here.
KNOWN_WRONG = {
    "So the answer is $\\boxed{|x|\\ge 1}$.": "inequalities in an absolute value are not solved",
    "Thus the final answer is $$\\boxed{C(3,-1)}$$": "a point after its name is read as a value",
    "Thus the final answer is $$\\boxed{x\\to 8}$$": "arrows are not read",
    "Thus the final answer is $$\\boxed{8\\ (\\text{cm})}$$": "a unit in brackets stays",
}
KINDS = ("math", "choice", "code")
CASES: dict[str, list[dict[str, Any]]] = {
    kind: [json.loads(line) for line in (DIRECTORY / f"{kind}_cases.jsonl").open(encoding="utf-8")]
    for kind in KINDS
}
PLACES = [
    pytest.param(kind, place, id=f"{kind}-{place}-{case['note']}")
    for kind in KINDS
    for place, case in enumerate(CASES[kind])
]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """The output of `verify --json` for every case of every kind."""
    path = tmp_path_factory.mktemp("cases") / "rows.jsonl"
    lines = {}
    with VerifierPool(num_workers=1) as pool:
        for kind in KINDS:
            path.write_text("\n".join(json.dumps({"verifier": kind} | row) for row in CASES[kind]))
            lines[kind] = [as_line(row) for row in judge_rows(read_rows_to_verify(path, ""), pool)]
    return lines


@pytest.mark.parametrize(("kind", "place"), PLACES)
def test_the_verdict_is_a_persons(kind: str, place: int, judged: dict[str, Any]) -> None:
    case, line = CASES[kind][place], judged[kind][place]
    if kind == "code":
        assert line["reason"] == case["reason"]
        assert line["correct"] is (case["reason"] == "pass")
        assert line["seconds"] < 4
    else:
        is_right = line["correct"] is CORRECT[case["verdict"]]
        assert is_right is (case["prediction"] not in KNOWN_WRONG), line


def test_there_are_enough_different_cases_of_every_verdict() -> None:
    for kind, smallest in (("math", 20), ("choice", 25), ("code", 2)):
        counts = Counter(case["reason" if kind == "code" else "verdict"] for case in CASES[kind])
        assert len(counts) == {"math": 3, "choice": 2, "code": 6}[kind]
        assert min(counts.values()) >= smallest
        assert len({json.dumps({**case, "note": ""}) for case in CASES[kind]}) == counts.total()
    assert len(KNOWN_WRONG) <= 4
