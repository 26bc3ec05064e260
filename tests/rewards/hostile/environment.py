# outcome: exit
# stdout: {} None
import ctypes
import os

getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
print(dict(os.environ), getenv(b"PATH"))
