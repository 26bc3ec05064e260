"""The kernel's means of confining a process: Landlock, seccomp, namespaces, capabilities, limits.

Hand-made system calls, in this one file, because the bindings that pip can install do not do on a
fresh machine: pyseccomp 0.1.2 loads a libseccomp.so that only the system's administrator can
install, and `landlock` 1.0.0.dev5 knows files only, neither TCP nor signals. Imports the standard
library alone: the fork server runs it in an interpreter without site-packages.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

# <linux/prctl.h>
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP = 1, 4, 22
_PR_SET_NO_NEW_PRIVS = 38
# <linux/sched.h>: user, network, IPC, host name, process ids.
_NEW_USER, _NEW_NAMESPACES = 0x10000000, 0x40000000 | 0x08000000 | 0x04000000 | 0x20000000
_CAPABILITY_VERSION_3 = 0x20080522
_M_ARENA_MAX = -8  # <malloc.h>

# Threads of one program; the kernel counts them with the processes of the same user.
MAX_THREADS = 256
MAX_OPEN_FILES = 64
# Below the 128 MiB that the kernel keeps free under the main thread's stack.
STACK_BYTES = 120 << 20

# System calls a Python program needs that reach nothing outside its process: (x86-64, arm64).
_HARMLESS = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "lseek": (8, 62),
    "poll": (7, None), "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72),
    "pread64": (17, 67), "pwrite64": (18, 68), "readv": (19, 65), "writev": (20, 66),
    "pipe": (22, None), "pipe2": (293, 59), "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24),
    "epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_wait": (232, None),
    "epoll_pwait": (281, 22), "eventfd2": (290, 19), "ftruncate": (77, 46), "fsync": (74, 82),
    "fdatasync": (75, 83), "getcwd": (79, 17),
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214),
    "mremap": (25, 216), "madvise": (28, 233), "membarrier": (324, 283),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136), "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133),
    "sigaltstack": (131, 132), "pause": (34, None), "alarm": (37, None),
    "getitimer": (36, 102), "setitimer": (38, 103), "wait4": (61, 260), "waitid": (247, 95),
    "futex": (202, 98), "set_robust_list": (273, 99), "rseq": (334, 293),
    "set_tid_address": (218, 96), "sched_yield": (24, 124), "sched_getaffinity": (204, 123),
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "clock_gettime": (228, 113),
    "clock_getres": (229, 114), "gettimeofday": (96, 169), "time": (201, None),
    "times": (100, 153), "getrusage": (98, 165), "getrlimit": (97, 163), "getpid": (39, 172),
    "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "getresuid": (118, 148), "getresgid": (120, 150),
    "getgroups": (115, 158), "getpgrp": (111, None), "getpgid": (121, 155), "getsid": (124, 156),
    "uname": (63, 160), "sysinfo": (99, 179), "getcpu": (309, 168), "getrandom": (318, 278),
    "exit": (60, 93), "exit_group": (231, 94), "restart_syscall": (219, 128),
}  # fmt: skip
# Names of files: only where Landlock decides which of them may be read.
_FILES = {
    "stat": (4, None), "lstat": (6, None), "newfstatat": (262, 79), "statx": (332, 291),
    "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439),
    "readlink": (89, None), "readlinkat": (267, 78), "getdents64": (217, 61),
}  # fmt: skip
_CLONE, _CLONE3, _FCNTL, _IOCTL = (56, 220), (435, 435), (72, 25), (16, 29)
_KILL, _TGKILL, _PRLIMIT64 = (62, 129), (234, 131), (302, 261)
_OPEN, _OPENAT, _NEWFSTATAT = (2, None), (257, 56), (262, 79)
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
# BPF: load word, jump if equal, jump if >=, and, return.
_LOAD, _JEQ, _JGE, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_Instruction = tuple[int, int, int, int]
_ALLOWED = (_RETURN, 0, 0, _ALLOW)
_DENIED = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
_CLONE_THREAD = 0x00010000
# What glibc and musl ask for when they start a thread; nothing that makes a namespace.
_THREAD_FLAGS = 0x007D0F00
# O_WRONLY | O_RDWR | O_CREAT | O_TRUNC
_WRITING = 0o3 | 0o100 | 0o1000
_AT_EMPTY_PATH = 0x1000
# F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC; not F_SETOWN, which sends signals.
_FCNTL_COMMANDS = (0, 1, 2, 3, 4, 1030)
# TCGETS, TIOCGWINSZ, FIONREAD, FIONCLEX, FIOCLEX
_IOCTL_REQUESTS = (0x5401, 0x5413, 0x541B, 0x5450, 0x5451)


def _checked(result: int, wish: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"the kernel refuses {wish} ({os.strerror(number)})")
    return result


def _prctl(option: int, value: int) -> None:
    _checked(_libc.prctl(option, *map(ctypes.c_ulong, (value, 0, 0, 0))), f"prctl {option}")


def die_with_parent(signal_number: int) -> None:
    """Asks for a signal when the parent ends; forgotten when the user id changes."""
    _prctl(_PR_SET_PDEATHSIG, signal_number)


def enter_namespaces() -> None:
    """Moves this process to network, IPC and host-name namespaces of its own, and its future
    children to a process namespace; through a user namespace unless it is root.

    Raises OSError where the host refuses that. The process must have one thread.
    """
    uid, gid = os.getuid(), os.getgid()
    user = _NEW_USER if os.geteuid() != 0 else 0
    _checked(_libc.unshare(_NEW_NAMESPACES | user), "namespaces")
    if user:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def drop_privileges() -> None:
    """Gives up all capabilities, for good, and access to this process by others of its user."""
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    _checked(_libc.capset(header, bytes(24)), "to drop capabilities")
    _prctl(_PR_SET_DUMPABLE, 0)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


# Landlock: system call numbers are the same on all architectures.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
# Not the standard library, though below it.
_INSTALLED = ("site-packages", "dist-packages")


def landlock_ruleset(library: str) -> int:
    """A descriptor of the rule that the standard library in this directory may be read, and nothing
    else: no other file, installed packages neither, no write, no TCP (kernel 6.7), no signal to and
    no abstract socket of others (6.12).

    Raises OSError on a kernel without Landlock.
    """
    version = _checked(_libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1), "Landlock")
    files = 0x1FFF | (1 << 13 if version >= 2 else 0) | (1 << 14 if version >= 3 else 0)
    files |= 1 << 15 if version >= 5 else 0
    handled = struct.pack("QQQ", files, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _checked(
        _libc.syscall(_CREATE_RULESET, handled, ctypes.c_size_t(size), 0),
        "a Landlock ruleset",
    )
    _allow(ruleset, library, _READ_DIR)
    with os.scandir(library) as entries:
        for entry in entries:
            if entry.name in _INSTALLED or entry.is_symlink():
                continue
            _allow(ruleset, entry.path, _READ_FILE | (_READ_DIR if entry.is_dir() else 0))
    return ruleset


def _allow(ruleset: int, path: str, rights: int) -> None:
    """Adds a rule for a file, or for a directory and all below it."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    rule = struct.pack("=Qi", rights, descriptor)
    try:
        _checked(_libc.syscall(_ADD_RULE, ruleset, 1, rule, 0), "a Landlock rule")
    finally:
        os.close(descriptor)


def landlock_restrict_self(ruleset: int) -> None:
    """Binds this thread and what it starts, for good; needs `drop_privileges` before."""
    _checked(_libc.syscall(_RESTRICT_SELF, ruleset, 0), "to apply Landlock")


def install_filter(*, allow_reading: bool) -> None:
    """Binds this process, for good, to an allow-list of system calls; all others fail with EPERM.
    No process is ever started, so the death of the one process is the end of all.

    `allow_reading`: files may be opened for reading; else no path reaches the kernel. Raises
    OSError on a processor whose system calls are not listed here.
    """
    if platform.machine() not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no list of system calls for {platform.machine()}")
    instructions = _instructions(*_ARCHITECTURES[platform.machine()], os.getpid(), allow_reading)
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    _checked(_libc.prctl(_PR_SET_SECCOMP, 2, head), "a seccomp filter")


def _instructions(
    column: int, architecture: int, pid: int, allow_reading: bool
) -> list[_Instruction]:
    thread = [*_require(0, ~_THREAD_FLAGS, 0), *_require(0, _CLONE_THREAD, _CLONE_THREAD)]
    rules = [
        *((numbers, [_ALLOWED]) for numbers in _HARMLESS.values()),
        (_CLONE, [*thread, _ALLOWED]),
        (_CLONE3, [(_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]),
        (_FCNTL, _one_of(1, _FCNTL_COMMANDS)),
        (_IOCTL, _one_of(1, _IOCTL_REQUESTS)),
        (_KILL, _one_of(0, (pid,))),
        (_TGKILL, _one_of(0, (pid,))),
        (_PRLIMIT64, _one_of(0, (0, pid))),
    ]
    if allow_reading:
        rules += [(numbers, [_ALLOWED]) for numbers in _FILES.values()]
        for numbers, argument in ((_OPEN, 1), (_OPENAT, 2)):
            rules.append((numbers, [*_require(argument, _WRITING, 0), _ALLOWED]))
    else:  # how glibc does fstat
        rules.append((_NEWFSTATAT, [*_require(3, _AT_EMPTY_PATH, _AT_EMPTY_PATH), _ALLOWED]))
    instructions = [(_LOAD, 0, 0, _ARCHITECTURE), (_JEQ, 1, 0, architecture)]
    instructions += [(_RETURN, 0, 0, _KILL_PROCESS), (_LOAD, 0, 0, _NUMBER)]
    if column == 0:  # the x32 calls of x86-64
        instructions += [(_JGE, 0, 1, 0x40000000), (_RETURN, 0, 0, _KILL_PROCESS)]
    for numbers, body in rules:
        if (number := numbers[column]) is not None:
            instructions += [(_JEQ, 0, len(body), number), *body]
    return [*instructions, _DENIED]


def _require(argument: int, mask: int, value: int) -> list[_Instruction]:
    """Returns EPERM unless the argument's lower 32 bits, masked, equal `value`."""
    return [
        (_LOAD, 0, 0, _FIRST_ARGUMENT + 8 * argument),
        (_AND, 0, 0, mask & 0xFFFFFFFF),
        (_JEQ, 1, 0, value),
        _DENIED,
    ]


def _one_of(argument: int, values: Iterable[int]) -> list[_Instruction]:
    """Allows the call if the argument's lower 32 bits are one of the values, else returns EPERM."""
    body = [(_LOAD, 0, 0, _FIRST_ARGUMENT + 8 * argument)]
    for value in values:
        body += [(_JEQ, 0, 1, value & 0xFFFFFFFF), _ALLOWED]
    return [*body, _DENIED]


def limit_resources(
    *, seconds: int, address_space: int, file_bytes: int, max_processes: int
) -> None:
    """Sets the limits of this process: CPU seconds, bytes of address space and of any file that
    it writes, and processes of its user; no core dumps, no locked memory.
    """
    limits = [
        (resource.RLIMIT_CPU, seconds, seconds + 1),
        (resource.RLIMIT_AS, address_space, address_space),
        (resource.RLIMIT_FSIZE, file_bytes, file_bytes),
        (resource.RLIMIT_NPROC, max_processes, max_processes),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES, MAX_OPEN_FILES),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_MEMLOCK, 0, 0),
        (resource.RLIMIT_MSGQUEUE, 0, 0),
    ]
    for kind, soft, hard in limits:
        _, inherited = resource.getrlimit(kind)
        if inherited != resource.RLIM_INFINITY:
            soft, hard = min(soft, inherited), min(hard, inherited)
        resource.setrlimit(kind, (soft, hard))
    _, hard = resource.getrlimit(resource.RLIMIT_STACK)
    soft = STACK_BYTES if hard == resource.RLIM_INFINITY else min(STACK_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_STACK, (soft, hard))


def share_one_arena() -> None:
    """Keeps glibc from reserving 64 MiB of address space for each thread; others do not."""
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(_M_ARENA_MAX, 1)


def running_threads() -> int:
    """At least the number of threads of this user: those of the whole machine."""
    with suppress(OSError, IndexError, ValueError):
        return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
    return 0
