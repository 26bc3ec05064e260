# outcome: exit
# stdout: refused
import json
import os

world = json.loads(input())
refused = 0
for pid in (world["parent"], os.getppid(), 1):
    try:
        os.pidfd_open(pid)
    except OSError:
        refused += 1
print("refused" if refused == 3 else "opened")
