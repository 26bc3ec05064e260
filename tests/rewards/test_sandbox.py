"""The sandbox: programs end as Python would end them, limits tell apart, and nothing is forged."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from vibelite.commands import machine
from vibelite.errors import SandboxError
from vibelite.rewards import sandbox as sandbox_module
from vibelite.rewards.sandbox import Limits, Sandbox, self_test
from vibelite.rewards.sandbox_slot import Slot

MIB = 1 << 20


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@pytest.mark.parametrize(
    ("source", "stdin", "stdout"),
    [
        ("print(int(input()) + 1)", b"41", b"42\n"),
        ("import sys; print(sum(map(int, sys.stdin.buffer.read().split())))", b"1 2\n3", b"6\n"),
        ("print(open(0).read()[::-1])", b"abc", b"cba\n"),
        ("import os; os.write(1, os.read(0, 9))", b"\xff\x00", b"\xff\x00"),
        ("if __name__ == '__main__':\n    print('main')", b"", b"main\n"),
        ("n = 1\ndef f():\n    global n\n    n += 1\nf()\nprint(n)", b"", b"2\n"),
        ("import sys\nsys.setrecursionlimit(50000)\nf = lambda n: n and f(n - 1)\nprint(f(40000))"
         , b"", b"0\n"),
        ("import sys; print('lost?'); sys.stdout = None", b"", b"lost?\n"),
        ("file = open(1, 'w'); file.write('unclosed')", b"", b"unclosed"),
        ("import atexit; atexit.register(print, 'last'); print('first')", b"", b"first\nlast\n"),
        ("import threading; threading.Thread(target=print, args=('in thread',)).start()", b"",
         b"in thread\n"),
        ("exit(print('bye'))", b"", b"bye\n"),
        ("import heapq, bisect, decimal, numbers, mmap; print('imported')", b"", b"imported\n"),
        ("", b"", b""),
    ],
)  # fmt: skip
def test_programs_run_as_python_runs_them(sandbox, source, stdin, stdout):
    """Against a Python process of its own, so that no expectation is ours alone."""
    execution = sandbox.run(source, stdin=stdin)
    python = subprocess.run([sys.executable, "-c", source], input=stdin, capture_output=True)
    assert (execution.outcome, execution.stdout) == ("exit", stdout)
    assert (python.returncode, python.stdout) == (0, stdout)


@pytest.mark.parametrize(
    ("source", "detail"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def f(:", "SyntaxError"),
        ("import sys; sys.exit('no answer')", "no answer"),
        ("import sys; sys.exit(256 + 3)", ""),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "ended by SIGTERM"),
        ("import os; os.close(1); print('lost')", ""),
        ("print('\\ud800')", "UnicodeEncodeError"),
        ("import numpy", "No module named 'numpy'"),
    ],
)
def test_failures_are_runtime_errors(sandbox, source, detail):
    execution = sandbox.run(source)
    assert execution.outcome == "runtime_error"
    assert detail in execution.detail
    assert "sandbox_" not in execution.detail, "frames of the sandbox are not the program's"


@pytest.mark.parametrize(
    ("source", "outcome", "detail"),
    [
        ("while True: pass", "time_limit", "more than 0.3 s"),
        ("held = [bytes(1 << 20) for _ in range(64)]", "memory_limit", "more than 33554432 bytes"),
        ("while True: print('x' * 999)", "output_limit", "more than 100000 bytes of output"),
        ("import sys\nwhile True: sys.stderr.write('x' * 999)", "output_limit", "more than 100000"),
        ("print('x' * 99_999)", "exit", ""),
        ("held = [bytes(1 << 20) for _ in range(16)]", "exit", ""),
    ],
)
def test_limits_tell_apart_and_are_where_they_are_said_to_be(sandbox, source, outcome, detail):
    seconds = 0.3 if outcome == "time_limit" else 20
    execution = sandbox.run(source, limits=Limits(seconds, 32 * MIB, 100_000))
    assert execution.outcome == outcome
    assert detail in execution.detail
    assert len(execution.stdout) <= 100_000


def test_threads_take_no_memory_that_they_do_not_use(sandbox):
    """The C library would reserve 64 MiB for each, and the limit counts what is reserved."""
    source = """
import threading
threading.stack_size(1 << 18)
is_over = threading.Event()
threads = [threading.Thread(target=is_over.wait) for _ in range(16)]
for thread in threads:
    thread.start()
held = bytes(240 << 20)
is_over.set()
print(len(held))
"""
    execution = sandbox.run(source, limits=Limits(20, 320 * MIB, 1000))
    assert (execution.outcome, execution.stdout) == ("exit", b"251658240\n")


def test_functions_return_json(sandbox):
    assert sandbox.run("def f(a, b): return a + [b]", stdin=b"[1]\n2\n", function="f").result == (
        b"[1, 2]"
    )
    method = "class Solution:\n    def f(self, text): return {text: (1, None)}"
    execution = sandbox.run(method, stdin=b'"x"', function="f")
    assert (execution.outcome, execution.result) == ("exit", b'{"x": [1, null]}')


def test_what_a_function_prints_is_not_its_result(sandbox):
    execution = sandbox.run("def f(): print('7'); return 8", function="f")
    assert (execution.stdout, execution.result) == (b"7\n", b"8")


def test_without_a_function_there_is_no_result_to_write(sandbox):
    execution = sandbox.run("import os; os.write(3, b'1')")
    assert (execution.outcome, execution.result) == ("runtime_error", b"")


def test_what_a_program_says_does_not_steer_the_terminal(sandbox):
    execution = sandbox.run("import sys; sys.exit('\\x1b[2Jcleared \\u202e')")
    assert execution.detail == "\\x1b[2Jcleared \\u202e\n"


def test_sets_have_the_same_order_in_every_run_and_random_numbers_have_not(sandbox):
    order = "print(*{str(i) for i in range(99)})"
    number = "import random; print(random.random())"
    assert len({sandbox.run(order).stdout for _ in range(4)}) == 1
    assert len({sandbox.run(number).stdout for _ in range(4)}) == 4


def test_one_program_leaves_nothing_to_the_next(sandbox):
    """Also not in modules, which all programs have from the same server."""
    for _ in range(3):
        execution = sandbox.run("import math, os\nprint(hasattr(math, 'left'))\nmath.left = 1")
        assert execution.stdout == b"False\n"


def test_no_descriptor_is_inherited_however_many_the_caller_has():
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(400)]
    program = Path(__file__).with_name("hostile").joinpath("inherited_descriptors.py").read_text()
    with Sandbox() as sandbox:
        assert sandbox.run(program).stdout == b"[]\n"
    for descriptor in held:
        os.close(descriptor)


def test_no_descriptor_is_left_open_in_the_caller():
    def run_and_close() -> int:
        with Sandbox() as sandbox:
            sandbox.run("print(1)")
        return len(os.listdir("/proc/self/fd"))

    assert run_and_close() == run_and_close()


def servers() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if child.status() != "zombie" and "sandbox_server" in " ".join(child.cmdline())
    ]


def test_a_server_that_dies_is_replaced():
    before = servers()
    with Sandbox() as sandbox:
        for server in set(servers()) - set(before):
            server.kill()
        assert sandbox.run("print(1)").stdout == b"1\n"


def test_programs_end_with_the_process_that_runs_them():
    """Even where that is killed: nobody is left to clean up after it."""
    source = (
        "from vibelite.rewards.sandbox import Sandbox, Limits\n"
        "sandbox = Sandbox()\nprint('ready', flush=True)\n"
        "sandbox.run('import time; time.sleep(600)', limits=Limits(seconds=600))"
    )
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE) as trainer:
        assert trainer.stdout is not None and trainer.stdout.readline() == b"ready\n"
        for _ in range(500):
            processes = psutil.Process(trainer.pid).children(recursive=True)
            if len(processes) >= 2:  # the server, and the program
                break
            time.sleep(0.02)
        assert len(processes) >= 2
        trainer.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert alive == []


def test_doctor_says_what_is_missing_and_what_to_do(monkeypatch):
    with Sandbox() as sandbox:
        detail = f"{sandbox.tier} ({', '.join(sandbox.layers)})"
    assert machine._sandbox() == machine.Finding("ok", "sandbox", detail)
    monkeypatch.setattr("vibelite.rewards.sandbox.self_test", lambda _: "a file could be read")
    finding = machine._sandbox()
    assert finding.status == "warn"
    assert "namespaces: a file could be read; landlock: a file could be read" in finding.detail
    assert "seccomp" in finding.fix


@pytest.fixture
def bare() -> Iterator[Slot]:
    """A fork server without any layer."""
    with Slot(()) as slot:
        slot.start()
        yield slot


def test_a_sandbox_without_layers_fails_the_self_test(bare):
    """The probes are real: what they attempt succeeds where nothing prevents it."""
    done = self_test(bare)
    sockets = ("open an internet socket", "open a unix socket")
    assert all(name in done for name in ("fork", *sockets, "make a file in memory"))


def test_landlock_alone_is_not_enough_and_the_message_says_what_to_do(monkeypatch):
    monkeypatch.setattr(sandbox_module, "TIERS", {"half": ("landlock",)})
    with pytest.raises(SandboxError, match=r"half: a program could .*fork.*allows seccomp"):
        Sandbox(("half",))


def test_a_limit_that_does_not_hold_fails_the_self_test(monkeypatch):
    excesses = {"memory_limit": "print('a system that ignores the limit of memory')"}
    monkeypatch.setattr("vibelite.rewards.sandbox._EXCESSES", excesses)
    with pytest.raises(SandboxError, match="a program beyond its memory_limit ended with exit"):
        Sandbox(("landlock",))


def test_what_needs_no_filter_holds_without_one(bare):
    """Core dumps, privileges and limits: PR_GET_DUMPABLE, PR_GET_NO_NEW_PRIVS, capget."""
    source = """
import ctypes, resource, struct
libc = ctypes.CDLL(None)
data = ctypes.create_string_buffer(24)
assert libc.capget(struct.pack("Ii", 0x20080522, 0), data) == 0
print(libc.prctl(3), libc.prctl(39, 0, 0, 0, 0), data.raw == bytes(24))
print([resource.getrlimit(getattr(resource, "RLIMIT_" + name)) for name in
       ("CORE", "MEMLOCK", "MSGQUEUE", "FSIZE", "CPU", "NOFILE")])
"""
    execution = bare.run(source, limits=Limits(5, 64 * MIB, 1000))
    limits = [(0, 0), (0, 0), (0, 0), (1001, 1001), (5, 6), (64, 64)]
    assert execution.stdout.decode() == f"0 1 True\n{limits}\n", execution.detail
