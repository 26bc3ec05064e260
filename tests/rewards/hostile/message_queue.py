# outcome: exit
# stdout: refused
import ctypes

libc = ctypes.CDLL(None)
created = libc.msgget(0, 0o1666) >= 0
created = created or libc.mq_open(b"/vibelite-hostile", 0o102, 0o666, None) >= 0
print("created" if created else "refused")
