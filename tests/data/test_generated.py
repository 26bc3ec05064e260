"""Problems from generators: splits, uniqueness, and what a recipe can get wrong."""

import decimal
from fractions import Fraction

import pytest
from reasoning_gym.factory import create_dataset

from vibelite.data.generated import (
    NUM_ENTRIES,
    ONE_NUMBER,
    Split,
    generate_problems,
    pose,
    split_of,
)
from vibelite.errors import DataError
from vibelite.recipe.data_section import GeneratedProblems, GeneratedTask
from vibelite.rewards.verifier import verify
from vibelite.types import Completion

TASKS = {
    "number": GeneratedTask(dataset="gcd", config={"min_value": 2, "max_value": 30}),
    "sums": GeneratedTask(dataset="chain_sum", config={"max_terms": 2, "max_digits": 1}),
}


def generate(split: Split = "train", num_problems=10, seed=0, tasks=None):
    source = GeneratedProblems(
        source="reasoning_gym", split=split, num_problems=num_problems, tasks=tasks or TASKS
    )
    return generate_problems(source, seed=seed)


def test_splits_share_no_problem_over_many_seeds():
    ids: dict[Split, set[str]] = {"train": set(), "probe": set(), "test": set()}
    for seed in range(8):
        for split in ids:
            ids[split] |= {problem.id for problem in generate(split, 8, seed)}
    assert not ids["train"] & ids["probe"]
    assert not ids["train"] & ids["test"]
    assert not ids["probe"] & ids["test"]
    assert all(len(found) > 16 for found in ids.values())  # the seeds do choose differently


def test_reordered_problems_are_the_same_problem():
    """gcd(12, 18) in training and gcd(18, 12) in a test would be a leak: a pair is there once."""
    tasks = {"number": GeneratedTask(dataset="gcd", config={"min_value": 2, "max_value": 9})}
    pairs = []
    splits: tuple[Split, ...] = ("train", "probe", "test")
    for split in splits:
        size = sum(split_of("gcd", f"{a},{b}") == split for a in range(2, 10) for b in range(a, 10))
        pairs += [p.metadata["facts"]["numbers"] for p in generate(split, size, 0, tasks)]
    assert len(pairs) == len({tuple(sorted(pair)) for pair in pairs}) == 36


def test_no_problem_comes_twice():
    problems = generate(num_problems=80)
    assert len({problem.id for problem in problems}) == len(problems) == 160


def test_a_smaller_set_begins_a_larger_one():
    small, large = generate(num_problems=5), generate(num_problems=12)
    assert small == large[:5] + large[12:17]
    assert generate(num_problems=5, seed=1) != small


def test_a_generator_without_enough_problems_says_how_many_exist():
    tasks = {"tiny": GeneratedTask(dataset="gcd", config={"min_value": 2, "max_value": 4})}
    # 2..4 gives the six pairs 22 23 24 33 34 44.
    there = sum(split_of("gcd", f"{a},{b}") == "train" for a in (2, 3, 4) for b in range(a, 5))
    assert 0 < there < 7
    with pytest.raises(DataError, match=f"'tiny': gcd .* has {there} different .* 7 are asked"):
        generate(num_problems=7, tasks=tasks)


def test_other_generators_are_asked_in_their_own_words():
    tasks = {"bits": GeneratedTask(dataset="count_bits", instruction="Be quick.")}
    problem = generate(num_problems=1, tasks=tasks)[0]
    assert problem.messages[0]["content"].startswith("How many 1 bits")
    assert problem.messages[0]["content"].endswith(" Be quick.")
    assert problem.answer.isdigit()


@pytest.mark.parametrize("dataset", ONE_NUMBER)
def test_generators_that_compare_one_number_have_one_for_an_answer(dataset):
    """They have scorers of their own; the project's verifier judges instead, and as they do."""
    problems = generate(num_problems=40, tasks={"one": GeneratedTask(dataset=dataset)})
    scorer = create_dataset(dataset, seed=0, size=1)
    for problem in problems:
        question = problem.messages[0]["content"]
        assert question.endswith("Answer in \\boxed{}.") and "Do not include units" not in question
        answer = Fraction(problem.answer)
        entry = {"answer": problem.answer, "metadata": {"solution": float(answer)}}
        assert scorer.score_answer(problem.answer, entry) == 1
        for given, correct in ((answer, True), (answer + 1, False)):
            completion = Completion((), (), "stop", f"So it is \\boxed{{{given}}}.")
            assert verify(problem, completion).correct == correct


def test_a_generator_of_few_entries_is_exhausted_at_its_end(monkeypatch):
    monkeypatch.setitem(NUM_ENTRIES, "gsm_symbolic", 30)
    tasks = {"words": GeneratedTask(dataset="gsm_symbolic")}
    with pytest.raises(DataError, match="'words': gsm_symbolic .* has 2[0-9] different"):
        generate(num_problems=31, tasks=tasks)


@pytest.mark.parametrize(
    ("dataset", "config", "message"),
    [
        ("gdc", {}, "'sub': reasoning-gym has no data set 'gdc'; did you mean 'gcd'"),
        ("gcd", {"max_valeu": 3}, "gcd refuses .*max_valeu"),
        ("gcd", {"min_value": 0}, "gcd refuses .*min_value must be positive"),
        ("gcd", {"seed": 3}, "gcd refuses .*multiple values for .*'seed'"),
        ("string_insertion", {}, "string_insertion has no single right answer"),
    ],
)
def test_wrong_settings_are_named(dataset, config, message):
    with pytest.raises(DataError, match=message):
        generate(tasks={"sub": GeneratedTask(dataset=dataset, config=config)})


def test_a_generator_that_sets_the_precision_of_decimals_leaves_it_as_it_was():
    before = decimal.getcontext().prec
    tasks = {"a": {"dataset": "decimal_arithmetic", "config": {"precision": 6}}}
    source = GeneratedProblems.model_validate(
        {"source": "reasoning_gym", "split": "train", "num_problems": 2, "tasks": tasks}
    )
    assert len(generate_problems(source, seed=0)) == 2
    assert decimal.getcontext().prec == before


def pose_with(dataset, **metadata):
    return pose(dataset, {"question": "?", "answer": "?", "metadata": metadata})


@pytest.mark.parametrize(
    ("equation", "question", "facts"),
    [
        ("3*y + 5 = 20", "Solve 3x+5=20.", (3, 5, 20)),
        ("y + 5 = 20", "Solve x+5=20.", (1, 5, 20)),
        ("5 - 3*y = -4", "Solve 5-3x=-4.", (-3, 5, -4)),
        ("-y - 5 = -9", "Solve -x-5=-9.", (-1, -5, -9)),
        ("51*y = 204", "Solve 51x=204.", (51, 0, 204)),
    ],
)
def test_equations_are_read_and_shortened(equation, question, facts):
    posed = pose_with("simple_equations", equation=equation, variable="y")
    assert posed.question == question
    assert tuple(posed.facts.values()) == facts


def test_the_name_of_the_unknown_is_not_part_of_the_core():
    first = pose_with("simple_equations", equation="3*y + 5 = 20", variable="y")
    second = pose_with("simple_equations", equation="3*k + 5 = 20", variable="k")
    third = pose_with("simple_equations", equation="3*k - 5 = 20", variable="k")
    assert first == second
    assert first.core != third.core


def test_order_is_not_part_of_the_core():
    for dataset, key, one, other in [
        ("simple_geometry", "known_angles", [50.0, 60.0], [60.0, 50.0]),
        ("gcd", "numbers", [12, 18], [18, 12]),
        ("leg_counting", "animals", {"ant": 2, "cat": 1}, {"cat": 1, "ant": 2}),
        ("chain_sum", "expression", "7 - 2", "-2 + 7"),
        ("products", "expression", "3 * 4", "4 * 3"),
    ]:
        first, second = pose_with(dataset, **{key: one}), pose_with(dataset, **{key: other})
        assert first.core == second.core, dataset
        assert first.question != second.question, dataset


def test_questions_are_short_and_complete():
    assert (
        pose_with("simple_geometry", known_angles=[50.0, 60.0]).question
        == "Find the last angle of a triangle: 50,60,?"
    )
    assert "5-gon" in pose_with("simple_geometry", known_angles=[100.0] * 4).question
    legs = pose_with("leg_counting", animals={"ant": 2, "cat": 1})
    assert legs.question == "Count the legs: 2 ants, 1 cat."
    divisor = pose_with("gcd", numbers=[12, 18, 24])
    assert divisor.question == "What is the greatest common divisor of 12, 18 and 24?"
    letters = pose_with("letter_counting", target_letter="e", span=["The", "end"])
    assert letters.question == 'How many times does the letter "e" appear in "The end"?'


def test_signs_of_sums_multiply_out():
    posed = pose_with("chain_sum", expression="-5 - -3 + -2 - 4")
    assert posed.facts["terms"] == [-5, 3, -2, -4]
    assert posed.question == "What is -5 + 3 - 2 - 4?"
