# outcome: exit
# stdout: refused
import os
import time

try:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(3600)
        os._exit(0)
    print("a daemon runs")
except OSError:
    print("refused")
