"""Questions with options: reading them, and another order for every sample."""

from collections import Counter

import pytest

from vibelite.errors import DataError
from vibelite.rewards.choice import (
    PERMUTATION,
    check_choice,
    check_question,
    letter_shares,
    parse_question,
    question_text,
    shuffled,
)
from vibelite.types import Problem

CONTENT = """Which of these is a metal?
(A) and (B) are labels in the stem, not options.

A. oxygen
B. iron
with a second line
C. neon
D. none of the above

Please reason step by step and put your choice letter in \\boxed{} in the end."""


def problem(answer: str = "B", verifier: str = "choice", number: int = 0) -> Problem:
    messages = ({"role": "system", "content": "s"}, {"role": "user", "content": CONTENT})
    return Problem(f"p{number}", "s", messages, answer, verifier, metadata={"kept": 1})


def test_a_question_is_read_in_its_parts() -> None:
    question = parse_question(CONTENT)
    assert question is not None
    assert question.options == (
        "oxygen",
        "iron\nwith a second line",
        "neon",
        "none of the above",
    )
    assert question.stem.endswith("not options.\n")
    assert question.ending.startswith("Please reason")
    assert question.render(range(4)) == CONTENT


@pytest.mark.parametrize(
    "content",
    ["no options", "A. only one", "B. two\nA. one", "A. one\nC. three", "A. one\nB. two\nB. three"],
)
def test_other_texts_have_no_options(content: str) -> None:
    assert parse_question(content) is None
    with pytest.raises(DataError, match="has no options in lines"):
        check_question(content, "A")


@pytest.mark.parametrize("answer", ["E", "", "AB", "b", "iron"])
def test_a_gold_that_is_no_option_is_a_data_error(answer: str) -> None:
    with pytest.raises(DataError, match="is none of the letters A, B, C, D"):
        check_question(CONTENT, answer)


def test_options_of_columns_make_a_question_that_is_read_back() -> None:
    question = parse_question(question_text("Why?", ["because", "two\nlines", "c"]))
    assert question is not None
    assert question.options == ("because", "two\nlines", "c")
    assert "\\boxed{}" in question.ending


def test_the_answer_follows_its_option_and_the_order_is_kept() -> None:
    original = parse_question(CONTENT)
    assert original is not None
    for sample in range(40):
        result = shuffled(problem(), seed=7, sample=sample)
        question = parse_question(result.messages[-1]["content"])
        assert question is not None
        order = result.metadata[PERMUTATION]
        assert [original.options[place] for place in order] == list(question.options)
        assert question.options["ABCD".index(result.answer)].startswith("iron")
        assert order[3] == 3, '"none of the above" stays the last'
        assert result.messages[0] == problem().messages[0]
        assert (result.id, result.metadata["kept"]) == ("p0", 1)


def test_the_order_depends_on_seed_problem_and_sample_alone() -> None:
    def order(seed: int, number: int, sample: int) -> tuple[int, ...]:
        return tuple(shuffled(problem(number=number), seed, sample).metadata[PERMUTATION])

    assert order(1, 2, 3) == order(1, 2, 3)
    for varied in (
        [order(seed, 0, 0) for seed in range(60)],
        [order(0, number, 0) for number in range(60)],
        [order(0, 0, sample) for sample in range(60)],
    ):
        assert len(set(varied)) == 6, "three options move, and all their orders appear"
        assert max(Counter(varied).values()) < 30


def test_problems_of_other_verifiers_stay_as_they_are() -> None:
    other = problem(verifier="math")
    assert shuffled(other, 1) is other


def test_a_choice_whose_options_cannot_be_found_is_a_data_error() -> None:
    lost = Problem("p9", "s", ({"role": "user", "content": "?"},), "A", "choice")
    with pytest.raises(DataError, match="problem p9: no options to shuffle"):
        shuffled(lost, 1)


def test_a_policy_that_always_says_the_same_letter_is_right_by_chance() -> None:
    """The standard deviation of the mean of 2,000 trials of 1/3 is 0.0105."""
    policy = "\\boxed{A}"
    problems = (shuffled(problem(number=number), seed=3) for number in range(2000))
    correct = sum(check_choice(policy, one.answer).correct is True for one in problems)
    assert abs(correct / 2000 - 1 / 3) < 4 * 0.0105


def test_shares_of_letters_are_in_order_and_none_comes_last() -> None:
    shares = letter_shares(["B", None, "A", "B"])
    assert list(shares.items()) == [("A", 0.25), ("B", 0.5), ("none", 0.25)]
