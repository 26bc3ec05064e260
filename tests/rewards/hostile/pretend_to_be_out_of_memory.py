# outcome: exit
# stdout: refused
# SIGKILL is what the kernel sends when memory runs out.
import os
import signal

try:
    os.kill(os.getpid(), signal.SIGKILL)
except OSError:
    print("refused")
