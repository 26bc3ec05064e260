# outcome: exit
# stdout: refused
import os

refused = 0
for attempt in (
    lambda: os.waitpid(-1, 0),
    lambda: os.waitpid(os.getppid(), 0),
    lambda: os.waitid(os.P_ALL, 0, os.WEXITED),
):
    try:
        attempt()
    except OSError:
        refused += 1
print("refused" if refused == 3 else "waited")
