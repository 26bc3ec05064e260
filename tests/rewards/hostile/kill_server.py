# outcome: exit
# stdout: refused
import os
import signal

try:
    os.kill(os.getppid(), signal.SIGKILL)
    print("sent")
except OSError:
    print("refused")
