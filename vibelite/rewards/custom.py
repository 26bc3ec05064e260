"""A user's own reward: a function `(problem, completion_text) -> float | Verdict` in a Python file.

The file is only ever executed in the pool's workers. A number is the reward, 1 being correct.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import numbers
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from vibelite.errors import DataError
from vibelite.rewards.failures import describe
from vibelite.types import Problem, Verdict

SIGNATURE = "a reward is a function (problem, completion_text) -> float in [0, 1] | Verdict"
# Where the metadata of a problem with `verifier: custom` says what judges it.
REWARD_FILE, REWARD_FUNCTION = "reward_file", "reward_function"


def check_custom(problem: Problem, text: str) -> Verdict:
    """What the problem's function says about the completion's text. True, NumPy's numbers and
    tensors of one number without dimensions are numbers.

    Raises whatever the function raises, TypeError for what is neither a number nor a Verdict, and
    ValueError for a reward outside [0, 1].
    """
    result = load_reward(problem)(problem, text)
    name = problem.metadata[REWARD_FUNCTION]
    is_verdict = isinstance(result, Verdict)
    reward = _number(result.reward if is_verdict else result)
    if reward is None:
        shown = f"{type(result).__name__} {str(result)[:60]!r}"
        raise TypeError(f"{name} returned {shown}; {SIGNATURE}{_advice(result)}")
    if not 0 <= reward <= 1:  # nor is NaN
        scale = "; for one from -1 to 1 return (reward + 1) / 2" if -1 <= reward < 0 else ""
        raise ValueError(f"{name} returned the reward {reward}; it must be in [0, 1]{scale}")
    if is_verdict:
        return replace(result, reward=reward)
    return Verdict(reward, reward == 1.0, "correct" if reward == 1.0 else f"reward {reward}")


def _advice(result: Any) -> str:
    """What to return in place of what other libraries' rewards return."""
    match result:
        case None:
            return "; return 0.0 for a wrong completion"
        case dict():
            return "; return one number, or Verdict(reward, correct, detail) of vibelite.types"
        case str():
            return "; return float(...) of it"
        case _ if isinstance(result, Iterable):
            return "; one completion is judged at a time: return its number alone"
    return ""


def _number(value: Any) -> float | None:
    """The value of a number, or of an array or a tensor that is one; None for all else."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    return float(value) if isinstance(value, numbers.Real) else None


def load_reward(problem: Problem) -> Callable[[Problem, str], Any]:
    """The function that judges the problem; executes its file once per process.

    Raises DataError if the file cannot be executed or has no such function.
    """
    return _load(problem.metadata[REWARD_FILE], problem.metadata[REWARD_FUNCTION])


def check_reward_file(path: Path) -> None:
    """Raises DataError unless the file is there."""
    if not path.is_file():
        raise DataError(f"{path}: there is no such file (paths are relative to the recipe)")


@functools.cache
def _load(file: str, function: str) -> Callable[[Problem, str], Any]:
    path = Path(file)
    check_reward_file(path)
    spec = importlib.util.spec_from_file_location(f"vibelite_reward_{path.stem}", path)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses and pickle look for it
    sys.path.append(str(path.parent))  # its own neighbours, after everything that is installed
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise DataError(f"{path}: cannot be executed ({describe(error)})") from error
    loaded = getattr(module, function, None)
    if loaded is None:
        names = [name for name in vars(module) if not name.startswith("_")]
        raise DataError(
            f"{path}: defines no {function!r} at its top level; "
            f"there are: {', '.join(names) or 'no names at all'}"
        )
    if not callable(loaded):
        raise DataError(f"{path}: {function} is a {type(loaded).__name__}, not a function")
    if inspect.iscoroutinefunction(loaded):
        raise DataError(f"{path}: {function} is async; {SIGNATURE}")
    try:
        signature = inspect.signature(loaded)
        if "completions" in signature.parameters:
            raise DataError(
                f"{path}: {function} has the signature of TRL's rewards, which judge a list of "
                f"completions; here {SIGNATURE}, called once for each completion"
            )
        signature.bind(None, "")
    except (TypeError, ValueError) as error:  # ValueError: of some functions in C none is known
        raise DataError(
            f"{path}: {function} cannot be called with two arguments ({error}); {SIGNATURE}"
        ) from error
    return loaded
