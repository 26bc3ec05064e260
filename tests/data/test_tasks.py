"""Short questions, problem cores and facts of the prepared tasks."""

import pytest

from vibelite.data.generated import pose


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
