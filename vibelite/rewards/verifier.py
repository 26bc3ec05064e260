"""One verdict per completion: what a problem's `verifier` names, behind one function; and the
answer under which a vote counts a completion.

A new verifier is a file beside this one and a `case` in each function here that it concerns.
Nothing here imports torch, and a model's text is evaluated in the sandbox alone.
"""

from __future__ import annotations

from vibelite.errors import DataError
from vibelite.rewards.answer_text import (
    boxed_answer,
    check_exact,
    check_procedural,
    last_number,
    parse_rational,
)
from vibelite.rewards.choice import LETTERS, PERMUTATION, check_choice, read_letter
from vibelite.rewards.code_problem import limits_of, read_tests
from vibelite.rewards.code_tests import check_code, check_code_cheaply
from vibelite.rewards.custom import check_custom, load_reward
from vibelite.rewards.instruct import check_instructions
from vibelite.rewards.math_answer import check_itself, check_math, check_math_cheaply, normalise
from vibelite.rewards.sandbox import Sandbox
from vibelite.types import Completion, Problem, Verdict

VERIFIERS = ("procedural", "math", "exact", "choice", "code", "instruct", "custom")
MATH_SECONDS = 3.0
# Beyond the time of a problem's tests: the sandbox's own processes, on a busy machine.
CODE_SLACK_SECONDS = 30.0


def deadline_seconds(problem: Problem, seconds: float) -> float:
    """How long a verification may take where the recipe allows `seconds`. Programs have the limits
    of their tests instead: to reach those is an answer, and no failure of the verifier.
    """
    match problem.verifier:
        case "math":
            return min(seconds, MATH_SECONDS)
        case "code":
            _, total_seconds = limits_of(problem.metadata)
            return total_seconds + CODE_SLACK_SECONDS
    return seconds


def verify(problem: Problem, completion: Completion, sandbox: Sandbox | None = None) -> Verdict:
    """The verdict on a completion; one that was cut off by length is wrong unseen.

    Has no time limit: a model's answer can keep it busy for ever. Runs verify in a `VerifierPool`.
    Programs need a `sandbox`. Raises DataError for a verifier that does not exist.
    """
    if (verdict := verify_cheaply(problem, completion)) is not None:
        return verdict
    match problem.verifier:
        case "math":
            return check_math(completion.text, problem.answer)
        case "custom":
            return check_custom(problem, completion.text)
        case "code":
            assert sandbox is not None, "programs run in a sandbox only"
            return check_code(problem, completion.text, sandbox)
    raise AssertionError(f"{problem.verifier} is always cheap")


def verify_cheaply(problem: Problem, completion: Completion) -> Verdict | None:
    """The verdict where it takes microseconds, in time linear in the text; else None.

    Raises DataError for a verifier that does not exist.
    """
    if problem.verifier not in VERIFIERS:
        raise DataError(
            f"problem {problem.id}: unknown verifier {problem.verifier!r}; "
            f"choose among {', '.join(VERIFIERS)}"
        )
    if completion.finish_reason == "length":
        return Verdict(0.0, False, "truncated")
    match problem.verifier:
        case "procedural":
            return check_procedural(completion.text, problem.answer)
        case "math":
            return check_math_cheaply(completion.text, problem.answer)
        case "exact":
            return check_exact(completion.text, problem.answer)
        case "choice":
            return check_choice(completion.text, problem.answer)
        case "code":
            return check_code_cheaply(problem, completion.text)
        case "instruct":
            return check_instructions(problem, completion.text)
    return None


def prepare(problem: Problem) -> None:
    """Imports and reads what verifying such a problem needs: no part of any completion's time.

    Raises VibeLiteError where completions of the problem cannot be verified at all.
    """
    match problem.verifier:
        case "math":
            check_itself()
        case "custom":
            load_reward(problem)
        case "code":
            read_tests(problem)


def shown_letter(completion: Completion) -> str | None:
    """The letter that a completion chose among the options as they were shown; None without one."""
    if completion.finish_reason == "length":
        return None
    boxed, _ = boxed_answer(completion.text)
    return None if boxed is None else read_letter(boxed)


def answer_key(problem: Problem, completion: Completion) -> str | None:
    r"""The normalised content of the last box after the thinking; None without an answer, and for
    a completion that was cut off.

    Numbers are reduced ("\frac{2}{4}" and "0.5" are "1/2"); other expressions that are equal in
    mathematics may have different keys and then split their votes. The key of a choice is the
    option's letter before the options were shuffled.
    """
    if problem.verifier == "choice":
        letter = shown_letter(completion)
        order = problem.metadata.get(PERMUTATION)
        if letter is None or order is None:
            return letter
        place = LETTERS.index(letter)
        return LETTERS[order[place]] if place < len(order) else None
    if completion.finish_reason == "length":
        return None
    boxed, _ = boxed_answer(completion.text)
    if boxed is None and problem.verifier == "procedural":
        boxed = last_number(completion.text)
    if boxed is None:
        return None
    answer = normalise(boxed)
    value = parse_rational(answer)
    return answer if value is None else str(value)
