# outcome: exit
# stdout: refused
"""Programs in a few words: of each, every call has to be refused by an error or by -1.

Like those in hostile/, they are run by hostile_run.py, each in a process of its own: it appends
`attempt("NAME")` to this text.
"""

import ctypes
import fcntl
import importlib
import itertools
import json
import mmap
import multiprocessing
import os
import platform
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time

WORLD = json.loads(input())
SECRET, DIRECTORY, PARENT = WORLD["secret"], WORLD["directory"], WORLD["parent"]
SERVER = os.getppid()
NEW = DIRECTORY + "/vibelite-hostile"
LIBRARY = os.path.dirname(os.__file__)
INSTALLED = [
    os.path.join(directory, name)
    for directory in {*sys.path, LIBRARY}
    for name in ("site-packages", "dist-packages")
]
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.syscall.argtypes = None
_COLUMN = {"x86_64": 0, "aarch64": 1}[platform.machine()]


def call(numbers, *arguments):
    """The system call with this number on (x86-64, arm64)."""
    return libc.syscall(numbers[_COLUMN], *arguments)


def clone(flags):
    """Of all 64 bits of the flags the kernel uses 32: none may be cheated by the others."""
    return call((56, 220), ctypes.c_ulong(flags), 0, 0, 0, 0)


def read(path, flags=os.O_RDONLY, **options):
    return os.read(os.open(path, flags, **options), 100)


def write(path, mode="w"):
    with open(path, mode) as file:
        return file.write("x" if "b" not in mode else b"x")


def create_table(path):
    """SQLite is C code that opens files by itself, also by a harmless-looking ATTACH."""
    connection = sqlite3.connect(":memory:")
    connection.execute("attach ? as other", (path,))
    connection.execute("create table other.t (x)")


def send_udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.sendto(b"leak", ("127.0.0.1", WORLD["port"]))


def import_from_installed():
    sys.path += INSTALLED
    return importlib.import_module("pip")


def fork_daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(3600)
        os._exit(0)


def grow_pipe():
    """F_SETPIPE_SZ: the kernel's memory in place of the program's."""
    fcntl.fcntl(os.pipe()[1], 1031, 1 << 20)


def for_each(items, action):
    return [lambda item=item: action(item) for item in items]


ATTEMPTS = {
    # Files of the machine.
    "read_secret": [lambda: read(SECRET)],
    # Relative to the standard library, by descriptor, and by names that mean the same.
    "read_secret_by_other_ways": for_each(
        (LIBRARY + "/../../../../../../..", "/proc/self/root", "/.", "/dev/fd/../../.."),
        lambda start: read(start + SECRET),
    ),
    # A descriptor of a directory outlives a change of the root: so one breaks out of it.
    "directory_descriptor_out_of_root": for_each(
        ("/", LIBRARY, "."),
        lambda start: read(
            "../" * 16 + SECRET.lstrip("/"), dir_fd=os.open(start, os.O_PATH | os.O_DIRECTORY)
        ),
    ),
    # O_PATH is for neither reading nor writing; it must not lead on to a file's content.
    "open_for_path": [
        lambda: read(SECRET, os.O_PATH),
        *for_each(
            (SECRET, "/"), lambda path: read(f"/proc/self/fd/{os.open(path, os.O_PATH)}")
        ),
    ],
    "read_repository": [lambda: read(WORLD["repository"] + "/pyproject.toml")],
    "read_system_files": for_each(
        ("/etc/passwd", "/etc/shadow", "/etc/hostname", "/proc/cpuinfo", "/proc/net/tcp",
         "/sys/kernel/version", "/var/log/dpkg.log"),
        read,
    ),
    "read_devices": for_each(
        ("mem", "kmsg", "sda", "nvidia0", "nvidiactl", "tty", "urandom"),
        lambda name: read(f"/dev/{name}"),
    ),
    "read_home": for_each(
        itertools.product(
            ("/root", os.path.expanduser("~")),
            ("/.ssh", "/.bashrc", "/.netrc", "/.cache/huggingface/token"),
        ),
        lambda parts: (os.listdir if parts[1] == "/.ssh" else read)("".join(parts)),
    ),
    "read_environment_of_sandbox": for_each(
        (PARENT, 1, "self"), lambda process: read(f"/proc/{process}/environ")
    ),
    # Of the interpreter that runs this: they are below the library, which may be read.
    "read_installed_packages": for_each(
        itertools.product(
            INSTALLED, ("README.txt", "pip/__init__.py", "_distutils_hack/__init__.py")
        ),
        lambda parts: read("/".join(parts)),
    ),
    "import_installed_packages": for_each(
        ("vibelite", "torch", "pytest", "numpy", "pip"), importlib.import_module
    ),
    "add_installed_packages": [import_from_installed],
    "list_processes": [lambda: os.listdir("/proc")],
    "root_by_proc": for_each(
        ("1/root", f"{PARENT}/root", f"{PARENT}/cwd", f"{PARENT}/fd"),
        lambda path: os.listdir(f"/proc/{path}"),
    ),
    "write_secret": [lambda: write(SECRET, "a")],
    # Opening for reading with O_TRUNC empties a file, too.
    "truncate_secret": [
        lambda: os.truncate(SECRET, 0),
        lambda: os.open(SECRET, os.O_RDONLY | os.O_TRUNC),
    ],
    "delete_secret": [lambda: os.unlink(SECRET)],
    "rename_secret": [lambda: os.rename(SECRET, NEW)],
    "delete_directory": [lambda: shutil.rmtree(DIRECTORY)],
    "make_directory": [lambda: os.mkdir(NEW)],
    "make_hard_link": [lambda: os.link(SECRET, NEW)],
    "make_symbolic_link": [lambda: os.symlink("/etc/shadow", NEW)],
    "make_pipe_and_device": [
        lambda: os.mkfifo(NEW),
        lambda: os.mknod(NEW, 0o20666, os.makedev(1, 1)),
    ],
    "change_mode_owner_and_times": [
        lambda: os.chmod(SECRET, 0o777),
        lambda: os.chown(SECRET, os.getuid(), os.getgid()),
        lambda: os.utime(SECRET, (0, 0)),
        lambda: os.setxattr(SECRET, "user.x", b"x"),
    ],
    "write_to_tmp": [lambda: write("/tmp/vibelite-hostile")],
    "write_shared_memory": [lambda: write("/dev/shm/vibelite-hostile")],
    "write_to_working_directory": [lambda: write("vibelite-hostile")],
    "write_standard_library": [lambda: write(LIBRARY + "/vibelite_hostile.py")],
    "write_temporary_file": [
        lambda: tempfile.NamedTemporaryFile(prefix="vibelite-hostile").write(b"x")
    ],
    "write_unnamed_file": for_each(
        ("/tmp", "/dev/shm", DIRECTORY, "/"),
        lambda directory: os.open(directory, os.O_TMPFILE | os.O_RDWR),
    ),
    "write_own_memory_file": [lambda: write("/proc/self/mem", "r+b")],
    "protect_from_out_of_memory": [lambda: write("/proc/self/oom_score_adj")],
    "database_file": for_each(
        (DIRECTORY + "/vibelite-hostile.db", "/tmp/vibelite-hostile.db"), create_table
    ),
    "load_library": [
        lambda: shutil.copyfile(ctypes.__file__, NEW + ".so"),
        lambda: ctypes.CDLL(SECRET),
        lambda: ctypes.CDLL("/lib/libvibelite-hostile.so"),
    ],
    # The descriptors are shared with the sandbox, which must not come to wait for a lock.
    "lock_files": [
        lambda: fcntl.flock(0, fcntl.LOCK_EX | fcntl.LOCK_NB),
        lambda: fcntl.lockf(1, fcntl.LOCK_EX | fcntl.LOCK_NB),
        lambda: fcntl.fcntl(1, 1024, 1),
        lambda: fcntl.fcntl(1, 1033, 1),
    ],
    "write_to_every_descriptor": for_each(
        range(3, 1024), lambda descriptor: os.write(descriptor, b"ready")
    ),
    # Networks.
    "tcp_connect": [lambda: socket.create_connection(("127.0.0.1", WORLD["port"]), 1)],
    "tcp_listen": [lambda: socket.create_server(("127.0.0.1", 0))],
    "udp_send": [send_udp],
    "unix_socket_of_file_system": [lambda: socket.socket(socket.AF_UNIX).connect(WORLD["unix"])],
    "unix_socket_without_file": [
        lambda: socket.socket(socket.AF_UNIX).connect("\0" + WORLD["abstract"])
    ],
    "container_engine_socket": [
        lambda: socket.socket(socket.AF_UNIX).connect("/var/run/docker.sock")
    ],
    "raw_and_netlink_sockets": [
        lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW),
        lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
        lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
        lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),
    ],
    "resolve_name": [lambda: socket.getaddrinfo("example.org", 80)],
    "web_request": [
        lambda: importlib.import_module("urllib.request").urlopen("http://127.0.0.1:80/", timeout=1)
    ],
    # Other processes, and new ones.
    "kill_sandbox": [lambda: os.kill(PARENT, signal.SIGKILL)],
    "kill_server": [lambda: os.kill(SERVER, signal.SIGKILL)],
    "kill_everything": [lambda: os.kill(-1, signal.SIGKILL)],
    "kill_group": [lambda: os.kill(0, signal.SIGKILL), lambda: os.killpg(0, signal.SIGKILL)],
    "signal_siblings": for_each(
        set(range(1, 5000)) - {os.getpid()}, lambda pid: os.kill(pid, 0)
    ),
    # tkill, rt_sigqueueinfo and tgkill to another process.
    "signal_by_other_calls": [
        lambda: call((200, 130), PARENT, 9),
        lambda: call((129, 138), PARENT, 9, ctypes.create_string_buffer(128)),
        lambda: call((234, 131), PARENT, PARENT, 9),
    ],
    # Signals to thread ids, which are process ids where a process has one thread.
    "stop_thread_of_sandbox": for_each(
        (PARENT, SERVER, 1), lambda pid: call((234, 131), pid, pid, signal.SIGSTOP)
    ),
    "descriptor_of_process": for_each((PARENT, SERVER, 1), os.pidfd_open),
    "trace_sandbox": for_each(
        itertools.product((16, 0x4206), (PARENT, SERVER)),
        lambda pair: libc.ptrace(*pair, 0, 0),
    ),
    "be_traced": [lambda: libc.ptrace(0, 0, 0, 0)],
    "wait_for_server": [
        lambda: os.waitpid(-1, 0),
        lambda: os.waitpid(SERVER, 0),
        lambda: os.waitid(os.P_ALL, 0, os.WEXITED),
    ],
    "limits_of_others": for_each(
        (PARENT, SERVER), lambda pid: resource.prlimit(pid, resource.RLIMIT_NOFILE, (1, 1))
    ),
    "fork_once": [os.fork],
    "fork_bomb": [os.fork] * 200,
    "fork_by_libc": [libc.fork],
    "vfork_by_libc": [libc.vfork],
    "daemon_by_double_fork": [fork_daemon],
    "clone_with_high_bits": for_each(
        (0x11, 1 << 32 | 0x11, 0x4000_0011, 0x0001_0000 << 32 | 0x11, 0x7E02_0000), clone
    ),
    # CLONE_NEWUSER | SIGCHLD, as a process and dressed up as a thread.
    "clone_into_namespace": for_each((0x10000011, 0x10010F00), clone),
    "user_namespace": [lambda: libc.unshare(0x10000000)],
    "network_namespace": [lambda: libc.unshare(0x40000000)],
    "new_process_group": [lambda: os.setpgid(0, 0)],
    "new_session": [os.setsid],
    "execute_shell": [lambda: os.execv("/bin/sh", ["sh", "-c", "echo ran"])],
    "execute_python": [lambda: os.execv(sys.executable, ["python", "-c", "print('ran')"])],
    "execute_by_descriptor": [lambda: os.execve(0, ["x"], {})],
    "posix_spawn": [lambda: os.posix_spawn("/bin/true", ["true"], {})],
    "shell_by_system": [lambda: -1 if os.system("true") != 0 else 0],
    "shell_by_subprocess": [lambda: subprocess.run("true", shell=True)],
    "process_by_multiprocessing": [
        lambda: multiprocessing.get_context("fork").Process(target=print).start()
    ],
    # The kernel's other services.
    "become_root": [
        lambda: os.setuid(0),
        lambda: os.setresuid(0, 0, 0),
        lambda: os.setgroups([0]),
        lambda: os.setgid(0),
    ],
    "change_affinity": [lambda: os.sched_setaffinity(0, {0})],
    "change_priority": [
        lambda: os.nice(5),
        lambda: os.setpriority(os.PRIO_PROCESS, SERVER, 19),
        lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
    ],
    "change_root": [lambda: os.chroot("/"), lambda: os.chdir("/"), lambda: os.fchdir(0)],
    "clock_host_name_and_reboot": [
        lambda: time.clock_settime(time.CLOCK_REALTIME, 0),
        lambda: socket.sethostname("vibelite-hostile"),
    ],
    "mount": [lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None)],
    "grow_pipe": [grow_pipe],
    "io_uring": [lambda: libc.syscall(425, 8, bytes(120))],
    # bpf, perf_event_open, userfaultfd, add_key, keyctl, personality, kexec_load, init_module.
    "kernel_interfaces": for_each(
        ((321, 280), (298, 241), (323, 282), (248, 217), (250, 219), (135, 92), (246, 104),
         (175, 105)),
        lambda numbers: call(numbers, 0, 0, 0, 0, 0),
    ),
    # Numbers 424 and up are the same everywhere: io_uring, mounts, pidfds, Landlock, secrets.
    "new_system_calls": for_each(
        set(range(424, 480)) - {439}, lambda number: libc.syscall(number, 1, 0, 0, 0, 0, 0)
    ),
    # PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG, PR_SET_PTRACER.
    "process_controls": for_each(
        (4, 22, 36, 1, 0x59616D61), lambda option: libc.prctl(option, 1, 0, 0, 0)
    ),
    # TIOCSTI puts characters into the terminal of whoever started the sandbox.
    "terminal_input": for_each(range(3), lambda descriptor: fcntl.ioctl(descriptor, 0x5412, b"x")),
    "raise_limits": for_each(
        (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE),
        lambda kind: resource.prlimit(0, kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)),
    ),
    "memory_by_malloc": [lambda: libc.malloc(1 << 40) or -1],
    "memory_by_mmap": [lambda: mmap.mmap(-1, 1 << 40)],
    "memory_file": [lambda: os.memfd_create("vibelite-hostile")],
    "memory_locked": [lambda: libc.mlock(ctypes.create_string_buffer(1 << 20), 1 << 20)],
    "message_queue": [
        lambda: libc.msgget(0, 0o1666),
        lambda: libc.mq_open(b"/vibelite-hostile", 0o102, 0o666, None),
    ],
    "semaphore_of_system_v": [lambda: libc.semget(0, 1, 0o1666)],
    "shared_memory_of_system_v": [lambda: libc.shmget(0, 4096, 0o1666)],
    "shared_memory_by_multiprocessing": [
        lambda: importlib.import_module("multiprocessing.shared_memory").SharedMemory(
            "vibelite-hostile", create=True, size=4096
        )
    ],
}  # fmt: skip


def attempt(name):
    succeeded = []
    for number, action in enumerate(ATTEMPTS[name]):
        try:
            result = action()
        except (OSError, ImportError, sqlite3.Error):
            continue
        if result != -1:
            succeeded.append((number, result))
    print(succeeded or "refused")
