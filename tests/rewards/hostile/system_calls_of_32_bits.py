# outcome: runtime_error
# x32's getpid on x86-64, where it ends the process; elsewhere the number does not exist.
import ctypes
import os
import platform

ctypes.CDLL(None).syscall(0x40000000 + 39)
if platform.machine() != "x86_64":
    os.abort()
