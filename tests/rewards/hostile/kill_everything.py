# outcome: exit
# stdout: refused
import os
import signal

try:
    os.kill(-1, signal.SIGKILL)
    print("sent")
except OSError:
    print("refused")
