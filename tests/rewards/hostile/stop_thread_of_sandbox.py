# outcome: exit
# stdout: refused
# Signals to thread ids, which are process ids where a process has one thread.
import ctypes
import json
import os
import platform
import signal

world = json.loads(input())
number = {"x86_64": 234, "aarch64": 131}[platform.machine()]
call = ctypes.CDLL(None).syscall
results = [call(number, pid, pid, signal.SIGSTOP) for pid in (world["parent"], os.getppid(), 1)]
print("refused" if set(results) == {-1} else "sent")
