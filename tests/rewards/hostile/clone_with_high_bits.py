# outcome: exit
# stdout: refused
# The filter sees 64 bits of the flags, the kernel uses 32: neither may be cheated by the others.
import ctypes
import platform

number = {"x86_64": 56, "aarch64": 220}[platform.machine()]
libc = ctypes.CDLL(None)
libc.syscall.argtypes = [ctypes.c_long, ctypes.c_ulong] + [ctypes.c_long] * 4
flags = (0x11, 1 << 32 | 0x11, 0x4000_0011, 0x0001_0000 << 32 | 0x11, 0x7E02_0000)
results = [libc.syscall(number, flag, 0, 0, 0, 0) for flag in flags]
print("refused" if set(results) == {-1} else "forked")
