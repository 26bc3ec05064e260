# outcome: exit
# stdout: refused
# CLONE_NEWUSER | SIGCHLD, as a process and dressed up as a thread.
import ctypes
import platform

number = {"x86_64": 56, "aarch64": 220}[platform.machine()]
libc = ctypes.CDLL(None)
results = [libc.syscall(number, flags, 0, 0, 0, 0) for flags in (0x10000011, 0x10010F00)]
print("refused" if results == [-1, -1] else "entered")
