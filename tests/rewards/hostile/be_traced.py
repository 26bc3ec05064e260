# outcome: exit
# stdout: refused
import ctypes

print("traced" if ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0 else "refused")
