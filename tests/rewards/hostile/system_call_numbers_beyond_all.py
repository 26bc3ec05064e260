# outcome: runtime_error
# -1 is above every number, and also what a tracer would be told of a call that was skipped.
import ctypes
import os
import platform

ctypes.CDLL(None).syscall(ctypes.c_long(-1))
if platform.machine() != "x86_64":
    os.abort()
