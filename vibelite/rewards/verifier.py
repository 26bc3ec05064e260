"""One verdict per completion: what a problem's `verifier` names, behind one function.

Adding a verifier = one file beside this one and one `case` in each of the functions here that it
concerns. Nothing here imports torch, and nothing evaluates a model's text as code outside the
sandbox.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vibelite.errors import DataError
from vibelite.types import Completion, Problem, Verdict

if TYPE_CHECKING:
    from vibelite.rewards.sandbox import Sandbox

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
            from vibelite.rewards.code_problem import limits_of

            _, total_seconds = limits_of(problem.metadata)
            return total_seconds + CODE_SLACK_SECONDS
    return seconds


def verify(problem: Problem, completion: Completion, sandbox: Sandbox | None = None) -> Verdict:
    """The verdict on a completion; one that was cut off by length is wrong unseen.

    Has no time limit: a model's answer can keep it busy for ever. Runs verify in a `VerifierPool`.
    Programs need a `sandbox`. Raises DataError for a verifier that does not exist.
    """
    verdict = verify_cheaply(problem, completion)
    if verdict is not None:
        return verdict
    match problem.verifier:
        case "math":
            from vibelite.rewards.math_answer import check_math

            return check_math(completion.text, problem.answer)
        case "custom":
            from vibelite.rewards.custom import check_custom

            return check_custom(problem, completion.text)
        case "code":
            from vibelite.rewards.code_tests import check_code

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
            from vibelite.rewards.procedural import check_procedural as check
        case "math":
            from vibelite.rewards.math_answer import check_math_cheaply as check
        case "exact":
            from vibelite.rewards.procedural import check_exact as check
        case "choice":
            from vibelite.rewards.choice import check_choice as check
        case "code":
            from vibelite.rewards.code_tests import check_code_cheaply

            return check_code_cheaply(problem, completion.text)
        case "instruct":
            from vibelite.rewards.instruct import check_instructions

            return check_instructions(problem, completion.text)
        case _:
            return None
    return check(completion.text, problem.answer)


def prepare(problem: Problem) -> None:
    """Imports and reads what verifying such a problem needs: no part of any completion's time.

    Raises VibeLiteError where completions of the problem cannot be verified at all.
    """
    match problem.verifier:
        case "math":
            from vibelite.rewards.math_answer import check_itself

            check_itself()
        case "custom":
            from vibelite.rewards.custom import load_reward

            load_reward(problem)
        case "code":
            from vibelite.rewards.code_problem import read_tests

            read_tests(problem)
