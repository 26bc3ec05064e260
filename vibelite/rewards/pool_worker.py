"""What a worker process of the verifier pool does: one completion after the other, until the pool
lets go of the connection.
"""

from __future__ import annotations

import resource
import signal
from multiprocessing.connection import Connection

from vibelite.errors import VibeLiteError
from vibelite.rewards.failures import describe
from vibelite.rewards.sandbox import Sandbox
from vibelite.rewards.verifier import prepare, verify

# For sympy: an answer must not take the machine's memory.
MATH_MEMORY_BYTES = 4 << 30
# A worker ends itself so long after a deadline: its pool, which would have done it, is gone.
ORPHAN_SECONDS = 5.0


def serve(descriptor: int, *, allow_weak_sandbox: bool) -> None:
    """Answers every (problem, completion, seconds) with ("started", None), once all imports are
    done, and then with ("verdict", Verdict) or ("exception", why); ("unusable", why) instead of
    both where nothing of the kind can be verified.
    """
    connection = Connection(descriptor)
    sandbox = None
    while True:
        try:
            problem, completion, seconds = connection.recv()
        except EOFError:
            return
        try:
            prepare(problem)
            if problem.verifier == "code" and sandbox is None:
                sandbox = Sandbox(allow_weak=allow_weak_sandbox)
        except VibeLiteError as error:
            connection.send(("unusable", str(error)))
            continue
        except ImportError as error:
            connection.send(("unusable", f"{problem.verifier}: {describe(error)}"))
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
