# outcome: exit
# stdout: refused
import ctypes

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
print("allocated" if libc.malloc(1 << 40) else "refused")
