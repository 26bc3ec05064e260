# outcome: exit
# stdout: refused
import os

try:
    os.sched_setaffinity(0, {0})
    print("changed")
except OSError:
    print("refused")
