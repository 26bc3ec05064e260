"""One verdict per completion: what a problem's `verifier` names, behind one function.

Adding a verifier = one file beside this one and one `case` in each of the functions here that it
concerns. Nothing here imports torch, and nothing evaluates a model's text as code outside the
sandbox.
"""

from __future__ import annotations

from vibelite.errors import DataError
from vibelite.types import Completion, Problem, Verdict

VERIFIERS = ("procedural", "math", "exact", "choice", "code", "custom")
# Verifiers with a deadline of their own, below what the recipe allows.
DEADLINE_SECONDS = {"math": 3.0}


def verify(problem: Problem, completion: Completion) -> Verdict:
    """The verdict on a completion; one that was cut off by length is wrong unseen.

    Has no time limit: a model's answer can keep it busy for ever. Runs verify in a `VerifierPool`.
    Raises DataError for a verifier that does not exist.
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
        case _:
            return None
    return check(completion.text, problem.answer)


def prepare(problem: Problem) -> None:
    """Imports what verifying such a problem needs, which is no part of any completion's time.

    Raises VibeLiteError where completions of the problem cannot be verified at all.
    """
    match problem.verifier:
        case "math":
            import vibelite.rewards.symbolic  # noqa: F401
        case "custom":
            from vibelite.rewards.custom import load_reward

            load_reward(problem)
