"""A user's own reward: a function `(problem, completion_text) -> float | Verdict` in a Python file.

The file is only ever executed in the pool's workers. A float is the reward, 1 being correct.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vibelite.errors import DataError
from vibelite.rewards.failures import describe
from vibelite.types import Problem, Verdict

SIGNATURE = "a reward is a function (problem, completion_text) -> float | Verdict"
# Where the metadata of a problem with `verifier: custom` says what judges it.
REWARD_FILE, REWARD_FUNCTION = "reward_file", "reward_function"


def check_custom(problem: Problem, text: str) -> Verdict:
    """What the problem's function says about the completion's text.

    Raises whatever the function raises, TypeError for what is neither a number nor a Verdict, and
    ValueError for a reward outside [0, 1].
    """
    result = load_reward(problem)(problem, text)
    if not isinstance(result, Verdict):
        if isinstance(result, bool) or not isinstance(result, int | float):
            raise TypeError(
                f"{problem.metadata[REWARD_FUNCTION]} returned {type(result).__name__} "
                f"{str(result)[:60]!r}; a reward is a float in [0, 1] or a Verdict"
            )
        reward = float(result)
        result = Verdict(reward, reward == 1.0, "correct" if reward == 1.0 else f"reward {reward}")
    if not (math.isfinite(result.reward) and 0 <= result.reward <= 1):
        raise ValueError(
            f"{problem.metadata[REWARD_FUNCTION]} returned the reward {result.reward}; "
            "it must be in [0, 1]"
        )
    return result


def load_reward(problem: Problem) -> Callable[[Problem, str], Any]:
    """The function that judges the problem; executes its file once per process.

    Raises DataError if the file cannot be executed or has no such function.
    """
    return _load(problem.metadata[REWARD_FILE], problem.metadata[REWARD_FUNCTION])


def check_reward_file(path: Path, function: str) -> None:
    """Raises DataError unless the file is Python and defines the name, as a function of two
    arguments if it is one, without executing it.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file (paths are relative to the recipe)")
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    except (SyntaxError, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"{path}: not a Python file ({error})") from error
    names = [name for statement in tree.body for name in _names(statement)]
    if function not in names:
        raise DataError(
            f"{path}: defines no {function!r} at its top level; "
            f"there are: {', '.join(names) or 'no names at all'}"
        )
    for statement in tree.body:
        match statement:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if name == function:
                if fault := _signature_fault(statement):
                    raise DataError(f"{path}:{statement.lineno}: {function} {fault}; {SIGNATURE}")


@functools.cache
def _load(file: str, function: str) -> Callable[[Problem, str], Any]:
    path = Path(file)
    check_reward_file(path, function)
    spec = importlib.util.spec_from_file_location(f"vibelite_reward_{path.stem}", path)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses and pickle look for it
    sys.path.append(str(path.parent))  # its own neighbours, after everything that is installed
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise DataError(f"{path}: cannot be executed ({describe(error)})") from error
    loaded = getattr(module, function)
    if not callable(loaded):
        raise DataError(f"{path}: {function} is a {type(loaded).__name__}, not a function")
    try:
        inspect.signature(loaded).bind(None, "")
    except (TypeError, ValueError) as error:  # ValueError: of some functions in C none is known
        raise DataError(
            f"{path}: {function} cannot be called with two arguments ({error}); {SIGNATURE}"
        ) from error
    return loaded


def _signature_fault(statement: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Why two arguments do not call the function; "" if they do, or if a decorator decides."""
    if isinstance(statement, ast.AsyncFunctionDef):
        return "is async"
    arguments = statement.args
    if statement.decorator_list:
        return ""
    positional = len(arguments.posonlyargs) + len(arguments.args)
    required = positional - len(arguments.defaults)
    keywords = [
        a.arg for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if d is None
    ]
    if required > 2 or (positional < 2 and arguments.vararg is None):
        return f"takes {positional} arguments"
    return f"requires the keyword {keywords[0]!r}" if keywords else ""


def _names(statement: ast.stmt) -> list[str]:
    """The names that a top-level statement defines."""
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            return [alias.asname or alias.name for alias in aliases]
        case ast.If() | ast.Try():
            return [name for inner in statement.body for name in _names(inner)]
    return []
