"""What a forked and confined process does: it is a Python program, as `python main.py` would run
it, or one call of a function of it. Everything here shares its process with hostile code, so that
nothing it reports is more than that program's own claim.
"""

from __future__ import annotations

import atexit
import builtins
import io
import json
import os
import sys
import threading
from types import ModuleType, TracebackType
from typing import Any, NoReturn

# The exit status of a program that ended with MemoryError.
EXIT_MEMORY = 101
# What Python itself ends with when it cannot write what was printed.
_EXIT_LOST_OUTPUT = 120
_SOURCE, _RESULT = 4, 3
_CHUNK = 1 << 20
# Of whole numbers that are printed and read, as in LiveCodeBench's harness; Python's own is 4,300.
_MAX_DIGITS = 50_000


def become_program(function: str) -> NoReturn:
    """Runs the source of descriptor 4, then ends the process with the program's exit status.

    With `function`, that function is called with the JSON values in the lines of standard input,
    and its value is written to descriptor 3 as JSON.
    """
    end, finish, status = os._exit, _Finish(), 1  # found now: a program may remove them
    try:
        source = _read_all(_SOURCE)
        os.close(_SOURCE)
        sys.set_int_max_str_digits(_MAX_DIGITS)
        _open_standard_streams()
        status = _run(source, function)
    except MemoryError:
        status = EXIT_MEMORY
    except BaseException:
        status = 1  # the program's own hook for exceptions has failed
    try:
        status = finish(status)
    except MemoryError:
        status = EXIT_MEMORY
    finally:
        end(status)


class _Finish:
    """What the interpreter does at a normal end, in its order."""

    def __init__(self) -> None:
        self._join_threads = threading._shutdown  # type: ignore[attr-defined]
        self._call_exit_functions = atexit._run_exitfuncs

    def __call__(self, status: int) -> int:
        """The exit status: as it was, unless output is lost."""
        for step in (self._join_threads, self._call_exit_functions):
            try:
                step()
            except MemoryError:
                raise
            except BaseException as error:
                sys.excepthook(type(error), error, error.__traceback__)
        is_complete = _flush()
        for name in ("__main__", "solution"):  # frees, and so writes, files left open
            if name in sys.modules:
                sys.modules[name].__dict__.clear()
        return status if is_complete else status or _EXIT_LOST_OUTPUT


def _flush() -> bool:
    """Whether all that was printed has been written, also to a stream that was replaced; what is
    lost of standard error does not count.
    """
    is_complete = True
    for stream in (sys.stderr, sys.__stdout__, sys.stdout):
        try:
            if stream is not None and not getattr(stream, "closed", False):
                stream.flush()
        except MemoryError:
            raise
        except BaseException:
            is_complete = stream is sys.stderr
    return is_complete


def _run(source: bytes, function: str) -> int:
    """The exit status of the program, its uncaught exception printed as Python prints it."""
    try:
        code = compile(source, "main.py", "exec", dont_inherit=True)
        module = ModuleType("solution" if function else "__main__")
        module.__dict__["__builtins__"] = builtins
        sys.modules[module.__name__] = module
        sys.argv[:] = ["main.py"]
        exec(code, module.__dict__)
        if function:
            _call(module, function)
    except SystemExit as error:
        return _exit_status(error.code)
    except MemoryError:
        return EXIT_MEMORY
    except BaseException as error:
        error.__traceback__ = _own_frames(error.__traceback__)
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    return 0


def _call(module: ModuleType, function: str) -> None:
    arguments = [json.loads(line) for line in sys.stdin if line.strip()]
    solution = getattr(module, "Solution", None)
    if hasattr(solution, function):
        called: Any = getattr(solution(), function)  # type: ignore[misc]
    else:
        called = getattr(module, function)
    result = json.dumps(called(*arguments)).encode()
    while result:
        result = result[os.write(_RESULT, result) :]


def _exit_status(code: object) -> int:
    """What `sys.exit(code)` means: None is 0, a number is itself, anything else is printed."""
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1


def _own_frames(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the program's first line on."""
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace


def _open_standard_streams() -> None:
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0)), "utf-8")
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w")), "utf-8")
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(2, "w")), "utf-8", "backslashreplace", line_buffering=True
    )
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]


def _read_all(descriptor: int) -> bytes:
    chunks = []
    while chunk := os.read(descriptor, _CHUNK):
        chunks.append(chunk)
    return b"".join(chunks)
