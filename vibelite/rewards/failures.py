"""Failures of a verifier, which say nothing about the completion: each is named in the verdict and
counted, and the run ends when there are more than the recipe allows.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from pathlib import Path

from vibelite.errors import VibeLiteError
from vibelite.types import Verdict, VerifierFailure


def failed(failure: VerifierFailure, detail: str) -> Verdict:
    """The verdict where the verifier failed: no reward, and not known whether right or wrong."""
    return Verdict(0.0, None, f"{failure}: {detail}", failure)


def describe(error: BaseException) -> str:
    """The error in one line, with where it was raised; what a reward returned has no place."""
    place = ""
    frames = traceback.extract_tb(error.__traceback__)
    if frames and Path(frames[-1].filename) != Path(__file__).with_name("custom.py"):
        place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{place}"


def count_failures(verdicts: Iterable[Verdict]) -> dict[VerifierFailure, int]:
    """How many verdicts of each kind of failure; every kind is there."""
    counts: dict[VerifierFailure, int] = {"timeout": 0, "crash": 0, "exception": 0}
    for verdict in verdicts:
        if verdict.failure is not None:
            counts[verdict.failure] += 1
    return counts


def require_reliable(verdicts: Iterable[Verdict], max_failure_rate: float) -> None:
    """Raises VibeLiteError if a larger share of the verdicts are failures of the verifier."""
    verdicts = list(verdicts)
    failures = [verdict for verdict in verdicts if verdict.failure is not None]
    if len(failures) <= max_failure_rate * len(verdicts):
        return
    kinds = ", ".join(f"{n} {kind}" for kind, n in count_failures(failures).items() if n)
    raise VibeLiteError(
        f"{len(failures)} of {len(verdicts)} completions could not be verified ({kinds}), and the "
        f"recipe allows a share of {max_failure_rate:g} (verification.max_failure_rate). "
        f"The first: {failures[0].detail}"
    )
