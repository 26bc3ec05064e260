# outcome: exit
# stdout: refused
import ctypes

mounted = ctypes.CDLL(None).mount(b"none", b"/tmp", b"tmpfs", 0, None)
print("mounted" if mounted == 0 else "refused")
