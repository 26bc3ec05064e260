"""How the project asks the generators' problems: short questions, and the core of each problem.

`pose` knows the prepared tasks; every other generator is asked in its own words. The prepared
questions are shorter than reasoning-gym's, because a small model pays for every token, and give the
numbers as `facts`, from which `vibelite.data.worked` builds solutions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

PREPARED = (
    "simple_equations",
    "simple_geometry",
    "gcd",
    "lcm",
    "leg_counting",
    "letter_counting",
    "chain_sum",
    "products",
)
# A generator whose own scorer only looks for a number in the text: its answers are one number each.
WORD_PROBLEMS = "gsm_symbolic"
WORD_PROBLEM_CLOSING = " Give the result as your final answer. Do not include units."
ANSWER_FORMAT = "Answer in \\boxed{}."


@dataclass(frozen=True, slots=True)
class Posed:
    """A question as the project asks it.

    `core` is equal for two entries exactly when they are the same problem in other words or another
    order; `facts` are the numbers of the problem (empty for tasks that are not prepared).
    """

    question: str
    core: str
    facts: dict[str, Any]


def pose(dataset: str, entry: dict[str, Any]) -> Posed:
    """The question, core and facts of one entry of the reasoning-gym generator `dataset`."""
    metadata = entry["metadata"]
    match dataset:
        case "simple_equations":
            return _pose_equation(metadata["equation"], metadata["variable"])
        case "simple_geometry":
            return _pose_polygon([int(angle) for angle in metadata["known_angles"]])
        case "gcd":
            numbers = metadata["numbers"]
            return Posed(
                f"What is the greatest common divisor of {_joined(numbers)}?",
                _sorted(numbers),
                {"numbers": numbers},
            )
        case "lcm":
            numbers = metadata["numbers"]
            return Posed(
                f"What is the least common multiple of {_joined(numbers)}?",
                _sorted(numbers),
                {"numbers": numbers},
            )
        case "leg_counting":
            return _pose_legs(metadata["animals"])
        case "letter_counting":
            return _pose_letters(metadata["target_letter"], metadata["span"])
        case "chain_sum":
            terms = [int(term) for term in _signed_terms(metadata["expression"])]
            return Posed(f"What is {_sum_text(terms)}?", _sorted(terms), {"terms": terms})
        case "products":
            factors = [int(factor) for factor in metadata["expression"].split(" * ")]
            question = " * ".join(map(_in_parentheses_if_negative, factors))
            return Posed(f"What is {question}?", _sorted(factors), {"factors": factors})
        case "gsm_symbolic":
            question = entry["question"].removesuffix(WORD_PROBLEM_CLOSING)
            return Posed(question, " ".join(question.split()), {})
        case _:
            return Posed(entry["question"], " ".join(entry["question"].split()), {})


def _pose_equation(equation: str, variable: str) -> Posed:
    """Linear equation a x + b = c; the unknown is always called x."""
    left, right = equation.split(" = ")
    coefficient, constant = 0, 0
    for term in _signed_terms(left):
        if term.endswith(variable):
            factor = term.removesuffix(variable).removesuffix("*")
            coefficient += int(factor + "1" if factor in ("+", "-") else factor)
        else:
            constant += int(term)
    compact = re.sub(variable, "x", left.replace(" ", "").replace("*", ""))
    facts = {"coefficient": coefficient, "constant": constant, "value": int(right)}
    core = f"{coefficient}x+{constant}={right}"
    return Posed(f"Solve {compact}={right}.", core, facts)


def _pose_polygon(angles: list[int]) -> Posed:
    num_sides = len(angles) + 1
    polygon = "triangle" if num_sides == 3 else f"{num_sides}-gon"
    question = f"Find the last angle of a {polygon}: {_listed(angles)},?"
    return Posed(question, _sorted(angles), {"angles": angles})


def _pose_legs(animals: dict[str, int]) -> Posed:
    counted = [f"{count} {name}{'s' if count > 1 else ''}" for name, count in animals.items()]
    core = ",".join(sorted(f"{count} {name}" for name, count in animals.items()))
    return Posed(f"Count the legs: {', '.join(counted)}.", core, {"animals": dict(animals)})


def _pose_letters(letter: str, words: list[str]) -> Posed:
    core = f"{letter} in {' '.join(sorted(word.lower() for word in words))}"
    question = f'How many times does the letter "{letter}" appear in "{" ".join(words)}"?'
    return Posed(question, core, {"letter": letter, "words": words})


def _signed_terms(expression: str) -> list[str]:
    """'5 - 3*x' -> ['+5', '-3*x']; signs of the numbers themselves ('-5 - -3') multiply out."""
    words = expression.replace("- -", "+ ").replace("+ -", "- ").split(" ")
    terms = [words[0] if words[0].startswith("-") else "+" + words[0]]
    for sign, word in zip(words[1::2], words[2::2], strict=True):
        terms.append(sign + word)
    return terms


def _sum_text(terms: list[int]) -> str:
    signed = [f"{'-' if term < 0 else '+'} {abs(term)}" for term in terms[1:]]
    return " ".join([str(terms[0]), *signed])


def _in_parentheses_if_negative(number: int) -> str:
    return f"({number})" if number < 0 else str(number)


def _joined(numbers: list[int]) -> str:
    """[12, 18, 24] -> "12, 18 and 24"."""
    return f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"


def _listed(numbers: list[int]) -> str:
    return ",".join(map(str, numbers))


def _sorted(numbers: list[int]) -> str:
    return _listed(sorted(numbers))
