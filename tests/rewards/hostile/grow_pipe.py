# outcome: exit
# stdout: refused
# F_SETPIPE_SZ: the kernel's memory in place of the program's.
import fcntl
import os

reading, writing = os.pipe()
try:
    fcntl.fcntl(writing, 1031, 1 << 20)
    print("grown")
except OSError:
    print("refused")
