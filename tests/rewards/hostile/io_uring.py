# outcome: exit
# stdout: refused
import ctypes

print("created" if ctypes.CDLL(None).syscall(425, 8, bytes(120)) >= 0 else "refused")
