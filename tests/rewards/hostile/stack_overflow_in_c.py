# outcome: runtime_error
# Machine code of a function that calls itself, which no interpreter's limit of recursion stops.
import ctypes
import mmap
import platform

endless = {"x86_64": b"\xe8\xfb\xff\xff\xff", "aarch64": b"\xfd\x7b\xbf\xa9\xff\xff\xff\x97"}
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(endless[platform.machine()])
ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
