"""Labelled answers to multiple choice, one test each."""

import pytest

from tests.rewards.labelled_cases import load_cases, outcome_of
from vibelite.rewards.choice import check_choice

# (prediction, answer) -> why it is judged otherwise than a person would.
KNOWN_WRONG: dict[tuple[str, str], str] = {}
CASES = load_cases("choice_cases.jsonl", KNOWN_WRONG)


@pytest.mark.parametrize("case", CASES)
def test_the_verdict_is_a_persons(case: dict[str, str]) -> None:
    verdict = check_choice(case["prediction"], case["answer"])
    assert outcome_of(verdict) == case["verdict"], verdict.detail


def test_there_are_enough_cases_of_both_verdicts() -> None:
    verdicts = [case.values[0]["verdict"] for case in CASES]
    assert len(verdicts) >= 60
    assert min(verdicts.count("correct"), verdicts.count("wrong")) >= 25
    assert len(KNOWN_WRONG) <= 2
