# outcome: exit
# stdout: refused
import ctypes
import json
import os

world = json.loads(input())
libc = ctypes.CDLL(None)
results = [
    libc.ptrace(request, pid, 0, 0)
    for request in (16, 0x4206)
    for pid in (world["parent"], os.getppid())
]
print("refused" if set(results) == {-1} else "attached")
