# outcome: exit
# stdout: refused
import json
import os
import resource

world = json.loads(input())
refused = 0
for pid in (world["parent"], os.getppid()):
    try:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (1, 1))
    except OSError:
        refused += 1
print("refused" if refused == 2 else "changed")
