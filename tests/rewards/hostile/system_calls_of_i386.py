# outcome: runtime_error
# getpid by `int 0x80`, which on x86-64 has numbers of its own; elsewhere there is no such thing.
import ctypes
import mmap
import os
import platform

if platform.machine() != "x86_64":
    os.abort()
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
address = ctypes.addressof(ctypes.c_char.from_buffer(code))
print(ctypes.CFUNCTYPE(ctypes.c_int)(address)())
