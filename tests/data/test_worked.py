"""Worked solutions: right, several, and different."""

import re
from dataclasses import replace

import pytest

from vibelite.data.generated import generate_problems
from vibelite.data.worked import solutions, work_out
from vibelite.errors import DataError
from vibelite.recipe.data_section import GeneratedProblems, GeneratedTask
from vibelite.rewards.verifier import verify
from vibelite.types import Completion

# Easy and hard settings; every number of sides, terms, factors and sign that the generators know.
TASKS = {
    "equations": ("simple_equations", {"max_terms": 2, "max_value": 10}),
    "long-equations": ("simple_equations", {}),
    "triangles": ("simple_geometry", {"max_sides": 3}),
    "polygons": ("simple_geometry", {}),
    "gcd": ("gcd", {"min_value": 1, "max_value": 60}),
    "gcd-of-three": ("gcd", {"max_numbers": 3}),
    "legs": ("leg_counting", {"min_animals": 2, "max_animals": 3}),
    "legs-of-one": ("leg_counting", {"min_animals": 1, "max_animals": 1}),
    "letters": ("letter_counting", {"min_words": 2, "max_words": 5}),
    "sums": ("chain_sum", {"min_terms": 1, "max_digits": 2, "allow_negation": True}),
    "products": ("products", {"min_terms": 1, "max_terms": 3, "max_digits": 2}),
    "signed-products": ("products", {"max_digits": 2, "allow_negation": True}),
}


@pytest.fixture(scope="module")
def problems():
    tasks = {name: GeneratedTask(dataset=d, config=config) for name, (d, config) in TASKS.items()}
    source = GeneratedProblems(source="reasoning_gym", split="train", num_problems=200, tasks=tasks)
    found = {name: [] for name in TASKS}
    for problem in generate_problems(source, seed=5):
        found[problem.subdomain].append(problem)
    return found


@pytest.mark.parametrize("name", TASKS)
def test_every_solution_is_right_and_every_step_is_true_arithmetic(problems, name):
    for problem in problems[name]:
        for path, text in solutions(problem):
            assert verify(problem, Completion((), (), "stop", text)).correct
            for line in text.splitlines():
                if match := re.fullmatch(r"(?:x=1:)?([-+*/%0-9]+)=([-0-9*]+)", line):
                    left, right = (re.sub(r"(?<![0-9])\+", "", side) for side in match.groups())
                    # The lines are the project's own, digits and signs only.
                    assert eval(left) == eval(right), (problem.id, path, line)


@pytest.mark.parametrize("name", ["equations", "triangles", "polygons", "gcd", "legs", "letters"])
def test_most_problems_are_solved_by_several_different_paths(problems, name):
    solved = [solutions(problem) for problem in problems[name]]
    assert sum(len(found) for found in solved) >= 2 * len(solved)
    for found in solved:
        assert len({path for path, _ in found}) == len({text for _, text in found}) == len(found)


def test_at_most_so_many_paths_are_used_and_over_many_problems_all_of_them(problems):
    traces = work_out(problems["triangles"], paths_per_problem=1)
    assert len(traces) == 200
    assert {trace.path for trace in traces} == {"sum", "peel", "right angles"}
    assert len(work_out(problems["triangles"], paths_per_problem=2)) == 400


def test_a_trace_answers_its_problem(problems):
    problem = problems["triangles"][0]
    trace = work_out([problem], paths_per_problem=1)[0]
    assert trace.messages[:-1] == problem.messages
    assert trace.problem_id == problem.id
    assert trace.messages[-1]["role"] == "assistant"
    assert trace.messages[-1]["content"].endswith(f"\\boxed{{{problem.answer}}}")


def test_a_solution_that_the_verifier_rejects_is_an_error(problems):
    broken = replace(problems["gcd"][0], answer="-1")
    with pytest.raises(DataError, match="remainders.*defect"):
        solutions(broken)


def test_a_task_without_worked_solutions_is_named():
    tasks = {"bits": GeneratedTask(dataset="count_bits")}
    source = GeneratedProblems(source="reasoning_gym", split="train", num_problems=1, tasks=tasks)
    with pytest.raises(DataError, match="no worked solutions for 'count_bits'"):
        work_out(generate_problems(source, seed=0), paths_per_problem=1)
