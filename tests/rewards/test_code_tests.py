"""Programs from completion to verdict: what is run, with what, and what goes wrong beside it."""

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any, cast

import pytest

from vibelite.errors import SandboxError, VibeLiteError
from vibelite.rewards import pool as verifier_pool
from vibelite.rewards.code_problem import row_metadata
from vibelite.rewards.code_tests import (
    check_code,
    code_blocks,
    extract_program,
    harness_program,
    program_of,
)
from vibelite.rewards.failures import require_reliable
from vibelite.rewards.pool import VerifierPool
from vibelite.rewards.sandbox import Execution, Limits, Sandbox
from vibelite.rewards.verifier import verify
from vibelite.types import Completion, Problem, Verdict

ADD = "```python\na, b = map(int, input().split())\nprint(a + b)\n```"


def stdin_tests(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"type": "stdin", "input": given, "output": wanted} for given, wanted in pairs]


def problem(*pairs: tuple[str, str], **limits: Any) -> Problem:
    metadata = row_metadata(stdin_tests(*pairs), limits)
    return Problem("p", "s", (), "", "code", metadata=metadata)


def completion(text: str) -> Completion:
    return Completion((1, 2), (-0.5, -0.5), "stop", text)


class Recorded:
    """A sandbox that keeps what it was asked to run, and answers what it is told to."""

    def __init__(self, *answers: Execution | Exception) -> None:
        self.answers = list(answers)
        self.calls: list[tuple[str, bytes, str, Limits]] = []

    def run(self, source: str, *, stdin: bytes, function: str, limits: Limits) -> Execution:
        self.calls.append((source, stdin, function, limits))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def printed(text: str, outcome: Any = "exit", detail: str = "") -> Execution:
    return Execution(outcome, text.encode(), b"", detail, 0.1)


def judge(given: Problem, sandbox: Recorded, text: str = ADD) -> Verdict:
    return check_code(given, text, cast(Sandbox, sandbox))


def test_what_is_expected_never_goes_to_the_sandbox() -> None:
    function = {"type": "functional", "fn_name": "f", "input": "7", "output": '"expected"'}
    metadata = row_metadata([*stdin_tests(("1 2", "expected"), ("3 4", "expected")), function])
    returned = Execution("exit", b"", b'"expected"', "", 0.1)
    sandbox = Recorded(printed("expected"), printed("expected"), returned)
    verdict = judge(Problem("p", "s", (), "", "code", metadata=metadata), sandbox)
    assert verdict == Verdict(1.0, True, "pass")
    assert [(stdin, name) for _, stdin, name, _ in sandbox.calls] == [
        (b"1 2", ""),
        (b"3 4", ""),
        (b"7", "f"),
    ]
    assert "expected" not in repr(sandbox.calls)


def test_the_first_failure_ends_it_and_is_named() -> None:
    sandbox = Recorded(printed("3"), printed("8"), printed("11"))
    verdict = judge(problem(("1 2", "3"), ("3 4", "7"), ("5 6", "11")), sandbox)
    assert len(sandbox.calls) == 2
    detail = "wrong_answer: test 2 of 3: line 1 is '8' instead of '7'"
    assert verdict == Verdict(0.0, False, detail)


@pytest.mark.parametrize("outcome", ["runtime_error", "time_limit", "memory_limit", "output_limit"])
def test_a_right_output_does_not_count_where_the_program_failed(outcome: str) -> None:
    failed = printed("3", outcome, "Traceback\n  x\nValueError: why\n\n")
    verdict = judge(problem(("1 2", "3")), Recorded(failed))
    assert verdict == Verdict(0.0, False, f"{outcome}: test 1 of 1: ValueError: why")


def test_a_failing_sandbox_is_no_verdict() -> None:
    with pytest.raises(SandboxError, match="gone"):
        judge(problem(("1 2", "3")), Recorded(SandboxError("gone")))


def test_a_test_gets_no_more_than_what_is_left_of_the_total(monkeypatch: Any) -> None:
    now = iter([100.0, 100.0, 101.5, 104.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    sandbox = Recorded(printed("3"), printed("3"))
    given = problem(*[("1 2", "3")] * 3, seconds=2, total_seconds=3, memory_bytes=5000)
    verdict = judge(given, sandbox)
    assert [limits.seconds for *_, limits in sandbox.calls] == [2.0, 1.5]
    assert {limits.memory_bytes for *_, limits in sandbox.calls} == {5000}
    assert verdict.detail == "time_limit: test 3 of 3: all took more than 3 s"


def test_only_functions_and_livecodebench_find_their_imports_made() -> None:
    with Sandbox() as sandbox:
        program = "```python\nprint(sqrt(int(input())))\n```"
        own = problem(("4", "2.0"))
        assert check_code(own, program, sandbox).detail.startswith("runtime_error")
        tests = '[{"input": "4", "output": "2.0", "testtype": "stdin"}]'
        columns = {"public_test_cases": tests, "private_test_cases": "[]", "func_name": ""}
        theirs = Problem("p", "s", (), "", "code", metadata=columns)
        assert check_code(theirs, program, sandbox).correct
        lines = "from __future__ import annotations\nx: Nothing\nimport traceback, sys\ntry: 1 / 0"
        lines += (
            "\nexcept ZeroDivisionError: print(traceback.extract_tb(sys.exc_info()[2])[0].lineno)"
        )
        verdict = check_code(theirs, f"```python\n{lines}\n```", sandbox)
        assert verdict.detail == "wrong_answer: test 1 of 1: line 1 is '4' instead of '2.0'"


def test_the_last_python_block_counts_and_else_the_last_without_a_label() -> None:
    text = "```\na\n```\n```python\nb\n```\n```py\nc\n```\n```\nd\n```\n```cpp\ne\n```"
    assert extract_program(text) == ("c\n", "")
    assert extract_program("```\na\n```\n```\nb\n```\n```text\nc\n```") == ("b\n", "")
    assert extract_program("```text\nc\n```") == (None, "no closed block of Python code")
    assert extract_program(f"<think>{ADD}") == (None, "unclosed <think>")
    assert extract_program(f"<think>{ADD}</think>")[0] is None


def test_programs_for_livecodebench_lie_between_the_last_two_fences_as_in_its_harness() -> None:
    text = "<think>```python\na\n```\n```cpp\nb\n  ``` end"
    assert harness_program(text) == ("b\n", "")
    lcb = Problem("p", "all", (), "", "code", metadata={"private_test_cases": ""})
    assert program_of(lcb, text) == harness_program(text)
    assert program_of(replace(lcb, metadata={"tests": []}), text)[0] is None
    assert harness_program("```python\na\n")[0] is None


def test_blocks_as_they_are_written() -> None:
    assert code_blocks("x\n``` Python \n a\n```\ny") == [("python", " a\n")]
    assert code_blocks("```{python}\na\n```") == [("python", "a\n")]
    assert code_blocks("```python title=x\na\n```") == [("python", "a\n")]
    assert code_blocks("  ```py\n  a\n    b\n c\n  ```") == [("py", "a\n  b\nc\n")]
    assert code_blocks("````py\n```\n````") == [("py", "```\n")]
    assert code_blocks("```py\nold\n```py\nnew\n```") == [("py", "new\n")]
    assert code_blocks("```py\na") == []
    assert code_blocks("`` `py\na\n```") == []
    assert code_blocks("inline ```a``` text\n```py\na\n```") == [("py", "a\n")]
    assert code_blocks("```\n```") == [("", "")]


@pytest.mark.parametrize("text", ["```py\n", "`", " ", "```\n", "```a", "</think>"])
def test_finding_the_program_takes_linear_time(text: str) -> None:
    started = time.process_time()
    extract_program(text * 300_000)
    assert time.process_time() - started < 2


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    with VerifierPool(num_workers=2, seconds=0.2) as pool:
        yield pool


def test_what_needs_no_sandbox_is_judged_at_once() -> None:
    with VerifierPool(num_workers=1) as idle:
        given = problem(("1 2", "3"))
        assert idle.submit(given, completion("no code")).done()
        cut = idle.submit(given, Completion((), (), "length", ADD))
        assert cut.result() == Verdict(0.0, False, "truncated")
        assert idle._workers == []


def test_a_program_has_the_limits_of_its_tests_not_the_pools(pool: VerifierPool) -> None:
    slow = "```python\nimport time\ntime.sleep(0.4)\nprint(input())\n```"
    pending = pool.submit(problem(("a", "a")), completion(slow))
    assert pending.result(timeout=60) == Verdict(1.0, True, "pass")
    assert pending.seconds > 0.4


def test_tests_that_cannot_be_read_end_the_run_with_the_problems_name(pool: VerifierPool) -> None:
    columns = {"public_test_cases": "[]", "private_test_cases": "eJx...", "func_name": ""}
    broken = Problem("abc301_a", "s", (), "", "code", metadata=columns)
    with pytest.raises(VibeLiteError, match="problem abc301_a: private_test_cases: neither JSON"):
        pool.submit(broken, completion(ADD)).result(timeout=60)


class Unstartable:
    def __init__(self) -> None:
        raise SandboxError("programs cannot be confined on this machine")


class Failing:
    def run(self, *_: Any, **__: Any) -> Execution:
        raise SandboxError("a program could not be started in the sandbox: no answer")


def answers_of_worker() -> list[Any]:
    """What a worker in this process answers to one problem."""
    ours, theirs = socket.socketpair()
    connection = Connection(ours.detach())
    connection.send((problem(("1 2", "3")), completion(ADD), 5.0))
    with socket.socket(fileno=connection.fileno()) as sending:
        sending.shutdown(socket.SHUT_WR)
        sending.detach()
    verifier_pool.serve(theirs.detach())
    answers = []
    while connection.poll():
        answers.append(connection.recv())
        if answers[-1][0] != "started":
            break
    return answers


def test_where_nothing_confines_programs_none_is_run(monkeypatch: Any) -> None:
    monkeypatch.setattr(verifier_pool, "Sandbox", Unstartable)
    ((kind, error),) = answers_of_worker()
    assert (kind, type(error)) == ("unusable", SandboxError)
    assert str(error) == "programs cannot be confined on this machine"


def test_a_sandbox_that_fails_is_a_failure_that_is_counted(monkeypatch: Any) -> None:
    monkeypatch.setattr(verifier_pool, "Sandbox", Failing)
    started, (kind, why) = answers_of_worker()
    assert (started, kind) == (("started", None), "exception")
    assert why.startswith("SandboxError: a program could not be started in the sandbox")
    with pytest.raises(VibeLiteError, match="1 of 2 completions could not be verified"):
        failed = Verdict(0.0, None, f"exception: {why}", "exception")
        require_reliable([failed, Verdict(1.0, True, "pass")], 0.02)


def test_a_program_is_never_run_without_a_sandbox() -> None:
    with pytest.raises(AssertionError, match="in a sandbox only"):
        verify(problem(("1 2", "3")), completion(ADD))
