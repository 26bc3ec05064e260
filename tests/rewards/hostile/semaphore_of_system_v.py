# outcome: exit
# stdout: refused
import ctypes

print("created" if ctypes.CDLL(None).semget(0, 1, 0o1666) >= 0 else "refused")
