"""Labelled mathematical answers, one test each."""

from collections.abc import Iterator

import pytest

from tests.rewards.labelled_cases import load_cases, outcome_of
from vibelite.rewards.pool import VerifierPool
from vibelite.types import Completion, Problem

# (prediction, answer) -> why it is judged otherwise than a person would.
KNOWN_WRONG = {
    ("So the answer is $\\boxed{|x|\\ge 1}$.", "(-\\infty,-1]\\cup[1,\\infty)"): (
        "inequalities in an absolute value are not solved"
    ),
    ("Thus the final answer is $$\\boxed{C(3,-1)}$$", "(3, -1)"): (
        "a point after its name is read as a function's value"
    ),
    ("Thus the final answer is $$\\boxed{x\\to 8}$$", "8"): "arrows are not read",
    ("Thus the final answer is $$\\boxed{8\\ (\\text{cm})}$$", "8"): (
        "a unit in brackets of its own is not taken off"
    ),
}
CASES = load_cases("math_cases.jsonl", KNOWN_WRONG)


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    with VerifierPool(num_workers=1) as pool:
        yield pool


@pytest.mark.parametrize("case", CASES)
def test_the_verdict_is_a_persons(case: dict[str, str], pool: VerifierPool) -> None:
    problem = Problem("p", "s", (), case["answer"], "math")
    pending = pool.submit(problem, Completion((), (), "stop", case["prediction"]))
    verdict = pending.result(timeout=60)
    assert outcome_of(verdict) == case["verdict"], verdict.detail


def test_there_are_enough_cases_of_every_verdict() -> None:
    verdicts = [case.values[0]["verdict"] for case in CASES]
    assert len(verdicts) >= 250
    assert verdicts.count("correct") >= 100
    assert verdicts.count("wrong") >= 100
    assert verdicts.count("unverifiable") >= 20
    assert len(KNOWN_WRONG) <= len(verdicts) / 50
