# outcome: exit
# stdout: refused
import ctypes

libc = ctypes.CDLL(None)
buffer = ctypes.create_string_buffer(1 << 20)
print("locked" if libc.mlock(buffer, 1 << 20) == 0 else "refused")
