# outcome: exit
# stdout: refused
import ctypes

print("created" if ctypes.CDLL(None).shmget(0, 4096, 0o1666) >= 0 else "refused")
