"""A user's own reward: what is wrong with it is said with file and place, before it counts."""

from pathlib import Path

import pytest

from vibelite.errors import DataError
from vibelite.rewards.custom import check_custom, check_reward_file
from vibelite.rewards.pool import VerifierPool
from vibelite.types import Completion, Problem, Verdict

GOOD = "def score(problem, text):\n    return 1.0 if problem.answer in text else 0.0\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "reward.py"
    path.write_text(text, encoding="utf-8")
    return path


def problem(path: Path, function: str = "score") -> Problem:
    metadata = {"reward_file": str(path), "reward_function": function}
    return Problem("p", "s", (), "42", "custom", metadata=metadata)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = (\n", r"cannot be executed \(SyntaxError: '\(' was never closed"),
        ("\x00", r"cannot be executed \(SyntaxError: source code .* null bytes"),
        ("", "defines no 'score' at its top level; there are: no names at all"),
        ("def scores(a, b): ...\nB = 1\n", "defines no 'score' .* there are: scores, B"),
        ("class A:\n    def score(a, b): ...\n", "defines no 'score' .* there are: A"),
        ("import nowhere\n" + GOOD, r"cannot be executed \(ModuleNotFoundError: .*reward.py:1\)"),
        (GOOD + "1 / 0\n", r"cannot be executed \(ZeroDivisionError: .*reward.py:3\)"),
        (GOOD + "raise SystemExit(4)\n", r"cannot be executed \(SystemExit: 4"),
        ("score = 5\n", "score is a int, not a function"),
        ("score = lambda text: 1.0\n", "score cannot be called with two arguments .too many posit"),
        ("class score:\n    def __init__(self, a): ...\n", "score cannot be called with two"),
        (
            "def score(a, b, c): ...\n",
            "score cannot be called .* .missing a required.* 'c'",
        ),
        ("def score(a, b, *, c): ...\n", "score cannot be called .* .missing a required .*'c'"),
        ("async def score(a, b): ...\n", "score is async; a reward is a function"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_place(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(DataError, match=f"reward.py: {message}"):
        check_custom(problem(write(tmp_path, text)), "x")


@pytest.mark.parametrize(
    "text",
    [
        "def score(a, b, c=1): return 1.0",
        "def score(a, *rest): return 1.0",
        "def score(a, b, *, c=1): return 1.0",
        "class score:\n    def __new__(cls, a, b): return 1.0",
        "score = lambda problem, text: 1.0",
        "from operator import contains as score\nscore = lambda *_: 1.0",
    ],
)
def test_ways_of_defining_a_function(tmp_path: Path, text: str) -> None:
    assert check_custom(problem(write(tmp_path, text)), "x").correct


def test_a_missing_file_says_where_paths_start(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.py: there is no such file \(paths are relative"):
        check_reward_file(tmp_path / "none.py")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "return '1.0'",
            r"returned str '1.0'; a reward is a function .* -> float in \[0, 1\]",
        ),
        ("return None", "score returned NoneType 'None'"),
        ("return [1.0]", "score returned list"),
        ("return float('nan')", r"score returned the reward nan; it must be in \[0, 1\]"),
        ("return float('inf')", "score returned the reward inf"),
        ("return -0.1", "score returned the reward -0.1"),
        ("return 1.5", "score returned the reward 1.5"),
        ("return Verdict(2.0, True)", "score returned the reward 2.0"),
        ("return Verdict('1', True)", "score returned Verdict"),
    ],
)
def test_what_is_no_reward_is_never_one(tmp_path: Path, body: str, message: str) -> None:
    text = f"from vibelite.types import Verdict\ndef score(problem, text):\n    {body}\n"
    with pytest.raises((TypeError, ValueError), match=message):
        check_custom(problem(write(tmp_path, text)), "x")


def test_numbers_and_verdicts_are_rewards(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "from vibelite.types import Verdict\n"
        "def number(problem, text): return int(problem.answer == text)\n"
        "def share(problem, text): return 0.25\n"
        "def verdict(problem, text): return Verdict(np.float16(0.5), None, 'half')\n"
        "import numpy as np, torch\n"
        "VALUES = {'bool': True, 'np.bool': np.bool_(False), 'float32': np.float32(0.5),\n"
        "          'int64': np.int64(1), 'array': np.array(0.25), 'tensor': torch.tensor(0.75),\n"
        "          'flag': torch.tensor(True)}\n"
        "def value(problem, text): return VALUES[text]\n",
    )
    assert check_custom(problem(path, "number"), "42") == Verdict(1.0, True, "correct")
    assert check_custom(problem(path, "number"), "41") == Verdict(0.0, False, "reward 0.0")
    assert check_custom(problem(path, "share"), "x") == Verdict(0.25, False, "reward 0.25")
    assert check_custom(problem(path, "verdict"), "x") == Verdict(0.5, None, "half")
    names = ("bool", "np.bool", "float32", "int64", "array", "tensor", "flag")
    verdicts = [check_custom(problem(path, "value"), name) for name in names]
    assert [verdict.reward for verdict in verdicts] == [1.0, 0.0, 0.5, 1.0, 0.25, 0.75, 1.0]
    assert {type(verdict.reward) for verdict in verdicts} == {float}
    assert [v.correct for v in verdicts] == [True, False, False, True, False, False, True]


def test_a_reward_may_import_its_neighbours_and_use_dataclasses_in_the_pool(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_reward.py").write_text("WORD = 'yes'\n")
    path = write(
        tmp_path,
        "from dataclasses import dataclass\n"
        "from neighbour_of_reward import WORD\n"
        "@dataclass\nclass Case:\n    text: str\n"
        "def score(problem, text): return float(WORD in Case(text).text)\n",
    )
    with VerifierPool(num_workers=1) as pool:
        futures = [
            pool.submit(problem(path), Completion((), (), "stop", text)) for text in ("yes", "no")
        ]
        assert [future.result(timeout=60).reward for future in futures] == [1.0, 0.0]
