# outcome: exit
# stdout: refused
import os

reached = 0
for pid in range(1, 5000):
    try:
        os.kill(pid, 0)
        reached += pid != os.getpid()
    except OSError:
        pass
print("reached" if reached else "refused")
