# outcome: exit
# stdout: refused
import ctypes

print("forked" if ctypes.CDLL(None).fork() >= 0 else "refused")
