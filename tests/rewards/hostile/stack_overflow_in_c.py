# outcome: runtime_error
import ctypes
import os
import sys

sys.setrecursionlimit(1 << 30)


@ctypes.CFUNCTYPE(None)
def descend():
    descend()


descend()
os._exit(0)
