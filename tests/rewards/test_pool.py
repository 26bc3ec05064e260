"""The verifier pool: every completion gets a verdict in time, and failures have names."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest

from vibelite.errors import DataError, VibeLiteError
from vibelite.rewards.pool import VerifierPool
from vibelite.types import Completion, Problem, Verdict

REWARDS = Path(__file__).with_name("rewards_of_tests.py")
SECONDS = 1.5


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    with VerifierPool(num_workers=1, seconds=SECONDS) as pool:
        yield pool


def completion(text: str) -> Completion:
    return Completion((1, 2), (-0.5, -0.5), "stop", text)


def problem(answer="2\\sqrt{3}", verifier="math", **metadata) -> Problem:
    return Problem("p", "s", ({"role": "user", "content": "?"},), answer, verifier, "", metadata)


def custom(function: str, answer="abcd") -> Problem:
    return problem(answer, "custom", reward_file=str(REWARDS), reward_function=function)


def judge(pool: VerifierPool, function: str, text="x") -> Verdict:
    return pool.submit(custom(function), completion(text)).result(timeout=60)


def test_symbolic_answers_are_judged_in_workers(pool):
    """A checker that bounds its time by SIGALRM gives 0 for every one of these off the main thread,
    and in each of this pool's threads.
    """
    texts = ["\\boxed{\\sqrt{12}}", "\\boxed{\\frac{6}{\\sqrt{3}}}", "\\boxed{\\sqrt{13}}"]
    futures = [pool.submit(problem(), completion(text)) for text in texts]
    assert [future.result(timeout=60).correct for future in futures] == [True, True, False]


def test_verdicts_without_need_of_a_process_come_at_once():
    with VerifierPool(num_workers=1) as idle:
        futures = [
            idle.submit(problem("204", verifier), completion("\\boxed{204}"))
            for verifier in ("math", "exact", "procedural")
        ]
        futures.append(idle.submit(problem("A", "choice"), completion("\\boxed{A}")))
        assert all(future.done() and future.result().correct for future in futures)
        assert idle._workers == []


def test_a_custom_reward_is_a_number_or_a_verdict(pool):
    assert judge(pool, "length_of_text", "x" * 5) == Verdict(0.5, False, "reward 0.5")
    assert judge(pool, "length_of_text", "x" * 10) == Verdict(1.0, True, "correct")
    assert judge(pool, "letters_in_answer", "abc") == Verdict(0.75, None, "3 letters")


@pytest.mark.parametrize(
    ("function", "failure", "detail"),
    [
        ("never_ends", "timeout", "timeout: no verdict within 1.5 s"),
        ("ends_the_process", "crash", "SIGSEGV"),
        ("exits", "exception", "SystemExit: 3"),
        ("raises", "exception", "KeyError: 'nothing\\nhere' (rewards_of_tests.py:"),
        ("returns_text", "exception", "returned str '1.0'; a reward is a function"),
        ("returns_nan", "exception", "returned the reward nan; it must be in [0, 1]"),
        ("length_of_text", "exception", "returned the reward 1.1"),
    ],
)
def test_what_goes_wrong_has_a_name_and_the_next_completion_is_verified(
    pool, function, failure, detail
):
    verdict = judge(pool, function, "x" * 11)
    assert (verdict.reward, verdict.correct, verdict.failure) == (0.0, None, failure)
    assert detail in verdict.detail
    assert judge(pool, "length_of_text", "x" * 10).correct


def test_a_deadline_ends_what_the_verifier_started_too(pool, tmp_path):
    started = tmp_path / "pid"
    assert judge(pool, "leaves_a_child", str(started)).failure == "timeout"
    child = int(started.read_text())
    for _ in range(100):
        if is_gone(child):
            return
        time.sleep(0.02)
    raise AssertionError(f"process {child} still runs")


def is_gone(process_id: int) -> bool:
    """The process does not exist, or waits for nothing but to be reaped."""
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def test_workers_know_nothing_of_torch(pool):
    import torch

    assert torch.__version__  # the parent does
    assert judge(pool, "knows_torch").reward == 0.0


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"reward_file": "/nowhere.py", "reward_function": "f"}, "/nowhere.py: there is no such"),
        ({"reward_file": str(REWARDS), "reward_function": "f"}, "defines no 'f' at its top level"),
        (
            {"reward_file": str(REWARDS), "reward_function": "WITHOUT_TYPE"},
            "WITHOUT_TYPE is a str, not a function",
        ),
    ],
)
def test_a_reward_that_cannot_be_used_ends_the_run_with_a_message(pool, metadata, message):
    future = pool.submit(problem("x", "custom", **metadata), completion("x"))
    with pytest.raises(VibeLiteError, match=message):
        future.result(timeout=60)


BROKEN_READER = """
class Settings:
    def __init__(self, **_): ...
NormalizationConfig = Settings
def normalize_latex(text, _): return text
def latex2sympy(*_, **__): raise ValueError("signal only works in main thread")
"""


@pytest.mark.parametrize("is_there", [True, False])
def test_a_worker_whose_checker_calls_everything_wrong_ends_the_run(
    monkeypatch, tmp_path, is_there
):
    """Workers import what the parent would: here a reader of LaTeX that fails on all input, or one
    that does not import. Neither becomes a reward of 0.
    """
    package = tmp_path / "latex2sympy2_extended"
    package.mkdir()
    (package / "__init__.py").write_text(BROKEN_READER if is_there else "import nowhere_at_all")
    (package / "latex2sympy2.py").write_text("from . import Settings as ConversionConfig")
    (package / "logic.py").write_text("class And: ...")
    (tmp_path / "math_verify.py").write_text("def verify(*_, **__): return False")
    monkeypatch.syspath_prepend(tmp_path)
    with VerifierPool(num_workers=1) as broken:
        future = broken.submit(problem(), completion("\\boxed{\\sqrt{12}}"))
        message = "checker of mathematical answers does not work" if is_there else "nowhere_at_all"
        with pytest.raises(VibeLiteError, match=message):
            future.result(timeout=60)


def test_an_unknown_verifier_is_a_data_error(pool):
    with pytest.raises(DataError, match="unknown verifier 'vibes'"):
        pool.submit(problem(verifier="vibes"), completion("x"))


def test_several_workers_verify_at_the_same_time():
    """The second begins before the first one ends; on a busy machine perhaps not at once, one after
    the other they never do.
    """

    def overlap(two: VerifierPool) -> bool:
        futures = [two.submit(custom("says_when"), completion("x")) for _ in range(2)]
        spans = [list(map(float, f.result(timeout=60).detail.split())) for f in futures]
        return max(start for start, _ in spans) < min(end for _, end in spans)

    with VerifierPool(num_workers=2) as two:
        assert any(overlap(two) for _ in range(5))


def test_closing_ends_what_is_under_way_and_leaves_no_process():
    before = children()
    pool = VerifierPool(num_workers=1, seconds=60)
    futures = [pool.submit(custom("never_ends"), completion("x")) for _ in range(3)]
    while not children() - before:
        time.sleep(0.01)
    started = time.monotonic()
    pool.close()
    assert time.monotonic() - started < 5
    assert children() == before
    assert futures[2].cancelled()


def children() -> set[psutil.Process]:
    return set(psutil.Process().children())


def test_a_worker_that_died_between_completions_is_replaced_silently(pool):
    assert judge(pool, "length_of_text", "x" * 10).correct
    process = pool._workers[0]._process
    process._popen.kill()
    process._popen.wait()
    assert judge(pool, "length_of_text", "x" * 10).correct


def test_a_worker_whose_trainer_was_killed_ends_in_silence():
    """It is in the middle of a completion, and finds nobody to tell its verdict to."""
    program = "from vibelite.rewards.pool import serve; serve(int(input()))"
    ours, theirs = socket.socketpair()
    with theirs:
        worker = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=[theirs.fileno()],
        )
        assert worker.stdin is not None
        worker.stdin.write(f"{theirs.fileno()}\n")
        worker.stdin.flush()
    connection = Connection(ours.detach())
    connection.send((problem("4", "exact"), completion("4"), 10.0))
    connection.close()
    assert worker.communicate(timeout=60)[1] == ""
    assert worker.returncode == 0
