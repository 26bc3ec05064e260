"""The golds of the public files: each verifies against itself in the shapes that a model writes,
and a file whose right option is always A does not reward saying A.
"""

import math
from collections.abc import Iterator

import pytest

from tests.benchmark_files import benchmark_file, needs_benchmark_files
from tests.data.tables import load_benchmark
from vibelite.rewards.choice import PERMUTATION, check_choice, shuffled
from vibelite.rewards.pool import VerifierPool
from vibelite.types import Completion

MATH_FILES = {"aime24": "aime", "aime25": "aime25", "hmmt25": "hmmt25"}


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    with VerifierPool(num_workers=1) as pool:
        yield pool


def shapes(gold: str) -> Iterator[tuple[bool, str]]:
    """The gold as models write it, and its near misses."""
    for right in (gold, f"$ {gold} $", f"\\displaystyle {gold}.", f"x = {gold}"):
        yield True, right
    for wrong in ("", f"\\text{{not }} {gold}", f"{gold}, 17"):
        yield False, wrong


def wrap(boxed: str) -> str:
    return f"<think>Is it \\boxed{{7}}?</think>\nThe answer is $\\boxed{{{boxed}}}$."


@needs_benchmark_files
@pytest.mark.parametrize("name", MATH_FILES)
def test_every_gold_is_right_in_all_shapes_and_its_near_misses_are_wrong(
    name: str, pool: VerifierPool
) -> None:
    expected, pending = [], []
    for problem in load_benchmark(name, benchmark_file(MATH_FILES[name])):
        for right, text in shapes(problem.answer):
            expected.append((right, problem.answer, text))
            pending.append(pool.submit(problem, Completion((), (), "stop", wrap(text))))
    assert len(expected) == 30 * 7
    verdicts = [future.result(timeout=60).correct for future in pending]
    assert [
        case for case, verdict in zip(expected, verdicts, strict=True) if verdict is not case[0]
    ] == []


@needs_benchmark_files
def test_a_policy_that_always_says_a_has_a_quarter_of_gpqa() -> None:
    """198 questions x 16 samples: the standard deviation of the mean is 0.0077 if all samples are
    independent. The file itself has A as every answer.
    """
    problems = load_benchmark("gpqa", benchmark_file("gpqa"))
    assert {problem.answer for problem in problems} == {"A"}
    num_samples = 16
    shown = [shuffled(problem, 1, sample) for problem in problems for sample in range(num_samples)]
    right = [check_choice("\\boxed{A}", problem.answer).correct is True for problem in shown]
    deviation = math.sqrt(0.25 * 0.75 / len(right))
    assert abs(sum(right) / len(right) - 0.25) < 4 * deviation
    letters = [problem.answer for problem in shown]
    assert all(abs(letters.count(x) / len(letters) - 0.25) < 4 * deviation for x in "ABCD")
    assert all(sorted(problem.metadata[PERMUTATION]) == [0, 1, 2, 3] for problem in shown)
    assert all(check_choice(f"\\boxed{{{p.answer}}}", p.answer).correct for p in shown)
