# outcome: exit
# stdout: refused
import ctypes
import os


class Span(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


buffer = ctypes.create_string_buffer(8)
span = Span(ctypes.addressof(buffer), 8)
libc = ctypes.CDLL(None)
results = [
    call(os.getppid(), ctypes.byref(span), 1, ctypes.byref(span), 1, 0)
    for call in (libc.process_vm_readv, libc.process_vm_writev)
]
print("refused" if results == [-1, -1] else "reached")
