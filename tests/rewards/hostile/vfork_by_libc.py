# outcome: exit
# stdout: refused
import ctypes

print("forked" if ctypes.CDLL(None).vfork() >= 0 else "refused")
