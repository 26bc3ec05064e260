# outcome: exit
# stdout: refused
import ctypes

print("entered" if ctypes.CDLL(None).unshare(0x40000000) == 0 else "refused")
