"""One verdict per completion: what a problem's `verifier` names, behind one function.

Adding a verifier = one file beside this one and one `case` here. Nothing here imports torch, and no
verifier ever evaluates a model's text as code.
"""

from __future__ import annotations

from vibelite.errors import DataError
from vibelite.types import Completion, Problem, Verdict


def verify(problem: Problem, completion: Completion) -> Verdict:
    """Reward 1 for a right answer, else 0; a completion cut off by length is wrong unseen.

    Raises DataError for a verifier that does not exist.
    """
    if completion.finish_reason == "length":
        return Verdict(0.0, False, "truncated")
    match problem.verifier:
        case "procedural":
            from vibelite.rewards.procedural import check_procedural as check
        case "math":
            from vibelite.rewards.math_answer import check_math as check
        case "exact":
            from vibelite.rewards.procedural import check_exact as check
        case _:
            raise DataError(
                f"problem {problem.id}: unknown verifier {problem.verifier!r}; "
                "choose procedural, math or exact"
            )
    return check(completion.text, problem.answer)
