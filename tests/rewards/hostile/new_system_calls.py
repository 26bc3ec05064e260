# outcome: exit
# stdout: refused
# Numbers 424 and up are the same on all processors: io_uring, mounts, pidfds, Landlock, secrets.
import ctypes

libc = ctypes.CDLL(None)
allowed = [n for n in range(424, 480) if n != 439 and libc.syscall(n, 1, 0, 0, 0, 0, 0) >= 0]
print(allowed or "refused")
