"""Problems from reasoning-gym generators, in splits that are disjoint for any seed and size.

The core of a problem (what makes it the same problem) is hashed, and the hash alone decides the
split: 80% of all cores belong to train, 10% to probe, 10% to test. Small generators repeat
themselves, so different seeds alone would not keep test problems out of training.

`pose` asks the prepared tasks in shorter words than reasoning-gym's, because a small model pays for
every token, and gives their numbers as `facts`, from which `vibelite.data.worked` builds solutions.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from decimal import localcontext
from typing import Any, Literal

from vibelite.errors import DataError
from vibelite.recipe.data_section import GeneratedProblems, GeneratedTask
from vibelite.recipe.suggest import did_you_mean
from vibelite.run_dir import derive_seed
from vibelite.types import Problem

Split = Literal["train", "probe", "test"]
# A split that has brought nothing new in so many draws is taken to be exhausted: of 100 equally
# likely cores the last is missed with probability (1 - 1/100)^5000 < 1e-21.
PATIENCE = 5000
PREPARED = (
    "simple_equations",
    "simple_geometry",
    "gcd",
    "leg_counting",
    "letter_counting",
    "chain_sum",
    "products",
)
WORD_PROBLEMS = "gsm_symbolic"
# Generators with scorers of their own, which compare one number: the answer is that number alone.
# Not among them are those whose answer is rounded otherwise than they ask (power_function,
# coin_flip), or may be written in one way only (fraction_simplification).
ONE_NUMBER = (
    WORD_PROBLEMS,
    "decimal_arithmetic",
    "decimal_chain_sum",
    "number_format",
    "rectangle_count",
    "dice",
)
WORD_PROBLEM_CLOSING = " Give the result as your final answer. Do not include units."
ANSWER_FORMAT = "Answer in \\boxed{}."
# How many entries a generator is made with. This one chooses a template for each when it is made.
NUM_ENTRIES = {WORD_PROBLEMS: 1 << 20}
MANY_ENTRIES = 1 << 31


def split_of(dataset: str, core: str) -> Split:
    """The split to which a problem core of a generator belongs, for ever."""
    bucket = int(_digest(f"split/{dataset}/{core}"), 16) % 10
    return "train" if bucket < 8 else "probe" if bucket == 8 else "test"


def generate_problems(source: GeneratedProblems, *, seed: int) -> list[Problem]:
    """`source.num_problems` different problems per sub-domain; a smaller set begins a larger one.

    Raises DataError for unknown generators, refused settings, and too few different problems.
    """
    problems = []
    with localcontext():  # a generator sets the precision of decimals, in which money is counted
        for subdomain, task in source.tasks.items():
            problems += _generate_task(source, subdomain, task, seed)
    return problems


def _generate_task(
    source: GeneratedProblems, subdomain: str, task: GeneratedTask, seed: int
) -> list[Problem]:
    task_seed = derive_seed(seed, "problems", subdomain, source.split) % 2**32
    generator = _create_generator(subdomain, task, task_seed)
    found: dict[str, Problem] = {}
    draw, last_new = 0, 0
    while len(found) < source.num_problems:
        if draw - last_new > PATIENCE or draw == generator.size:
            raise DataError(
                f"sub-domain {subdomain!r}: {task.dataset} with {task.config or 'its defaults'} "
                f"has {len(found)} different problems in the {source.split} split, and "
                f"{source.num_problems} are asked for; widen its settings or lower num_problems"
            )
        entry = generator[draw]
        draw += 1
        posed = pose(task.dataset, entry)
        if posed.core in found or split_of(task.dataset, posed.core) != source.split:
            continue
        last_new = draw
        content = f"{posed.question} {task.instruction or ANSWER_FORMAT}"
        found[posed.core] = Problem(
            id=f"{subdomain}/{task.dataset}/{_digest(posed.core)}",
            subdomain=subdomain,
            messages=({"role": "user", "content": content},),
            answer=str(entry["answer"]),
            verifier="procedural",
            metadata={"dataset": task.dataset, "facts": posed.facts},
        )
    return list(found.values())


def _create_generator(subdomain: str, task: GeneratedTask, seed: int) -> Any:
    from reasoning_gym.dataset import ProceduralDataset
    from reasoning_gym.factory import DATASETS, create_dataset

    where = f"sub-domain {subdomain!r}"
    if task.dataset not in DATASETS:
        hint = did_you_mean(task.dataset, DATASETS)
        raise DataError(f"{where}: reasoning-gym has no data set {task.dataset!r}{hint}")
    if own := {"seed", "size"} & task.config.keys():
        raise DataError(
            f"{where}: {', '.join(sorted(own))} of {task.dataset} is set by the run, not the recipe"
        )
    has_own_scorer = DATASETS[task.dataset][0].score_answer is not ProceduralDataset.score_answer
    if has_own_scorer and task.dataset not in (*PREPARED, *ONE_NUMBER):
        # Their answers are not unique, and some of their scorers evaluate the model's text as code.
        raise DataError(
            f"{where}: {task.dataset} has no single right answer to check against; use one of "
            f"{', '.join([*PREPARED, *ONE_NUMBER])}, or a generator without a scorer of its own"
        )
    size = NUM_ENTRIES.get(task.dataset, MANY_ENTRIES)
    try:
        return create_dataset(task.dataset, **task.config, seed=seed, size=size)
    except (TypeError, ValueError, AssertionError) as error:
        raise DataError(f"{where}: {task.dataset} refuses {task.config}: {error}") from error


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Posed:
    """A question as the project asks it. `core` is equal exactly for the same problem in other
    words or another order; `facts` are its numbers, {} for tasks that are not prepared.
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
            angles = [int(angle) for angle in metadata["known_angles"]]
            polygon = "triangle" if len(angles) == 2 else f"{len(angles) + 1}-gon"
            question = f"Find the last angle of a {polygon}: {_listed(angles)},?"
            return Posed(question, _sorted(angles), {"angles": angles})
        case "gcd":
            numbers = metadata["numbers"]
            listed = f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
            question = f"What is the greatest common divisor of {listed}?"
            return Posed(question, _sorted(numbers), {"numbers": numbers})
        case "leg_counting":
            counted = [(count, name) for name, count in metadata["animals"].items()]
            core = ",".join(sorted(f"{count} {name}" for count, name in counted))
            shown = [f"{count} {name}{'s' if count > 1 else ''}" for count, name in counted]
            question = f"Count the legs: {', '.join(shown)}."
            return Posed(question, core, {"animals": dict(metadata["animals"])})
        case "letter_counting":
            letter, words = metadata["target_letter"], metadata["span"]
            core = f"{letter} in {' '.join(sorted(word.lower() for word in words))}"
            question = f'How many times does the letter "{letter}" appear in "{" ".join(words)}"?'
            return Posed(question, core, {"letter": letter, "words": words})
        case "chain_sum":
            terms = [int(term) for term in _signed_terms(metadata["expression"])]
            signed = [f"{'-' if term < 0 else '+'} {abs(term)}" for term in terms[1:]]
            question = f"What is {' '.join([str(terms[0]), *signed])}?"
            return Posed(question, _sorted(terms), {"terms": terms})
        case "products":
            factors = [int(factor) for factor in metadata["expression"].split(" * ")]
            shown = [f"({factor})" if factor < 0 else str(factor) for factor in factors]
            question = f"What is {' * '.join(shown)}?"
            return Posed(question, _sorted(factors), {"factors": factors})
        case _:
            question = entry["question"].removesuffix(WORD_PROBLEM_CLOSING)
            return Posed(question, " ".join(question.split()), {})


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


def _signed_terms(expression: str) -> list[str]:
    """'5 - 3*x' -> ['+5', '-3*x']; signs of the numbers themselves ('-5 - -3') multiply out."""
    words = expression.replace("- -", "+ ").replace("+ -", "- ").split(" ")
    terms = [words[0] if words[0].startswith("-") else "+" + words[0]]
    for sign, word in zip(words[1::2], words[2::2], strict=True):
        terms.append(sign + word)
    return terms


def _listed(numbers: list[int]) -> str:
    return ",".join(map(str, numbers))


def _sorted(numbers: list[int]) -> str:
    return _listed(sorted(numbers))
