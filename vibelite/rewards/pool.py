"""Verification in worker processes that can be killed, so that no completion holds up a run beyond
its deadline. Whatever goes wrong becomes a verdict that says so, never a silent 0.

Workers are fresh interpreters, not forks: they have nothing of the trainer's GPU and threads and
import no torch. A verdict depends on problem and completion only, unless its deadline passed.
"""

from __future__ import annotations

import json
import os
import queue
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

from vibelite.errors import VibeLiteError
from vibelite.rewards.failures import describe, failed
from vibelite.rewards.sandbox import Sandbox
from vibelite.rewards.verifier import deadline_seconds, prepare, verify, verify_cheaply
from vibelite.types import Completion, Problem, Verdict

MAX_DEFAULT_WORKERS = 8
# A fresh interpreter and sympy take about one second; a busy machine gets much more.
START_SECONDS = 60.0
# For sympy: an answer must not take the machine's memory.
MATH_MEMORY_BYTES = 4 << 30
# A worker ends itself this long after a deadline: the pool that should have ended it is gone.
ORPHAN_SECONDS = 5.0
# The worker's import path is the parent's, wherever that came from.
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from vibelite.rewards.pool import serve; serve(int(sys.argv[2]))"
)


class PendingVerdict(Future[Verdict]):
    """A verdict, now or later; `seconds` is how long its verification took, once it is done."""

    seconds: float = 0.0


class VerifierPool:
    """Worker processes that verify completions, each within its deadline.

    Workers start when the first completion needs one: verdicts that cost microseconds are given at
    once, in the caller's thread.

    >>> with VerifierPool(num_workers=2, seconds=10.0) as pool:
    ...     verdict = pool.submit(problem, completion).result()
    """

    def __init__(self, *, num_workers: int = 0, seconds: float = 10.0) -> None:
        """`num_workers` 0 = one per processor, at most 8; `seconds` is the deadline of one
        completion, counted from when a worker takes it up; programs have the limits of their
        tests.
        """
        self.num_workers = num_workers or min(MAX_DEFAULT_WORKERS, len(os.sched_getaffinity(0)))
        self._seconds = seconds
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._workers: list[_Worker] = []
        self._is_closed = False

    def submit(self, problem: Problem, completion: Completion) -> PendingVerdict:
        """The verdict on a completion, now or later.

        The future raises VibeLiteError only where verification cannot work at all: a worker that
        does not start, or a reward file that cannot be used.
        """
        assert not self._is_closed, "the pool is closed"
        future = PendingVerdict()
        started = time.perf_counter()
        if (verdict := _verify_at_once(problem, completion)) is not None:
            future.seconds = time.perf_counter() - started
            future.set_result(verdict)
            return future
        # A verifier reads the text; a long completion's token ids would only be copied.
        bare = replace(completion, token_ids=(), sampler_logprobs=())
        deadline = deadline_seconds(problem, self._seconds)
        self._tasks.put(_Task(problem, bare, deadline, future))
        if len(self._workers) < self.num_workers:
            self._workers.append(_Worker(self._tasks))
        return future

    def close(self) -> None:
        """Ends all workers; verdicts that are still missing never come."""
        self._is_closed = True
        for _ in self._workers:
            self._tasks.put(None)
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.join()
        self._workers.clear()
        while not self._tasks.empty():
            if (task := self._tasks.get()) is not None:
                task.future.cancel()

    def __enter__(self) -> VerifierPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _verify_at_once(problem: Problem, completion: Completion) -> Verdict | None:
    try:
        return verify_cheaply(problem, completion)
    except VibeLiteError:
        raise
    except Exception as error:  # a defect of the verifier, counted like one of a worker's
        return failed("exception", describe(error))


@dataclass(frozen=True, slots=True)
class _Task:
    """One completion on its way; `deadline` in seconds."""

    problem: Problem
    completion: Completion
    deadline: float
    future: PendingVerdict


class _Worker:
    """A thread that takes tasks and has them done by a process, which it kills and replaces."""

    def __init__(self, tasks: queue.SimpleQueue[_Task | None]) -> None:
        self._tasks = tasks
        self._process: _Process | None = None
        self._is_ending = False
        self._thread = threading.Thread(target=self._work, name="verifier", daemon=True)
        self._thread.start()

    def kill(self) -> None:
        """Makes a verification that is under way end now."""
        self._is_ending = True
        if (process := self._process) is not None:
            process.kill()

    def join(self) -> None:
        self._thread.join()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None and not self._is_ending:
            try:
                task.future.set_result(self._verify(task))
            except VibeLiteError as error:
                task.future.set_exception(error)
        if self._process is not None:
            self._process.kill()

    def _verify(self, task: _Task) -> Verdict:
        process = self._hand_over(task)
        started = time.perf_counter()
        message = process.receive(task.deadline)
        task.future.seconds = time.perf_counter() - started
        if message is _NOTHING:
            process.kill()
            return failed("timeout", f"no verdict within {task.deadline:g} s")
        if message is _ENDED:
            return failed("crash", f"the verifier's process ended with {process.end()}")
        kind, value = message
        return value if kind == "verdict" else failed("exception", value)

    def _hand_over(self, task: _Task) -> _Process:
        """The process that works on the task from now on."""
        if self._process is not None and self._process.is_alive and self._process.begin(task):
            return self._process
        process = _Process()
        self._process = process  # the last one was killed, or died while it was idle
        if self._is_ending:
            process.kill()
        if not process.begin(task):
            raise VibeLiteError(
                f"a verifier's process does not start: {process.end()}; it may have written above"
            )
        return process


_NOTHING, _ENDED = object(), object()


class _Process:
    """One worker process and the connection to it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._popen = subprocess.Popen(
                [sys.executable, "-c", _BOOT, json.dumps(sys.path), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=2,  # standard output is for results
                pass_fds=[theirs.fileno()],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                # Ctrl-C is the trainer's to handle; and one kill reaches what the worker started.
                start_new_session=True,
            )
        self._connection = Connection(ours.detach())
        self._reaping = threading.Lock()
        self.is_alive = True

    def begin(self, task: _Task) -> bool:
        """Hands over a task and waits until the worker has imported what it needs for it; False if
        the process is no more.

        Raises the worker's VibeLiteError if it cannot import that.
        """
        try:
            self._connection.send((task.problem, task.completion, task.deadline))
        except OSError:
            return False
        message = self.receive(START_SECONDS)
        if message is _NOTHING:
            self.kill()
            raise VibeLiteError(f"a verifier's process was not ready after {START_SECONDS:g} s")
        if message is _ENDED:
            return False
        kind, value = message
        if kind == "unusable":
            raise value
        assert kind == "started", f"unexpected message {kind!r}"
        return True

    def receive(self, seconds: float) -> Any:
        """The next message; _NOTHING if none came in time, _ENDED if none can come."""
        try:
            return self._connection.recv() if self._connection.poll(seconds) else _NOTHING
        except (EOFError, OSError):
            return _ENDED

    def end(self) -> str:
        """How the process ended: the name of a signal, or its exit code."""
        self.kill()
        code = self._popen.returncode
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        """Ends the process and all that it started; harmless if it has ended."""
        with self._reaping:
            self.is_alive = False
            if self._popen.returncode is None:  # until it is reaped, its id is nobody else's
                os.killpg(self._popen.pid, signal.SIGKILL)
                self._popen.wait()


def serve(descriptor: int) -> None:
    """What a worker process does until the pool closes the connection. Every (problem, completion,
    seconds) is answered twice: ("started", None) once all is imported, then ("verdict", Verdict) or
    ("exception", why). Where such a problem cannot be verified at all, ("unusable", VibeLiteError)
    comes instead of both. Ends in silence when who asks is gone, however it ended.
    """
    with suppress(EOFError, ConnectionError):
        _serve(Connection(descriptor))


def _serve(connection: Connection) -> None:
    sandbox = None
    while True:
        problem, completion, seconds = connection.recv()
        try:
            prepare(problem)
            if problem.verifier == "code" and sandbox is None:
                sandbox = Sandbox()
        except VibeLiteError as error:
            connection.send(("unusable", error))
            continue
        except ImportError as error:
            connection.send(("unusable", VibeLiteError(f"{problem.verifier}: {describe(error)}")))
            continue
        connection.send(("started", None))
        _limit_memory(MATH_MEMORY_BYTES if problem.verifier == "math" else None)
        # Not handled in Python, where one long computation in C would keep it from running.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds + ORPHAN_SECONDS)
        try:
            answer = ("verdict", verify(problem, completion, sandbox))
        except (Exception, SystemExit) as error:
            answer = ("exception", describe(error))
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.send(answer)


def _limit_memory(num_bytes: int | None) -> None:
    """Limits this process's address space; None = as far as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = hard
    if num_bytes is not None:
        soft = num_bytes if hard == resource.RLIM_INFINITY else min(num_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
