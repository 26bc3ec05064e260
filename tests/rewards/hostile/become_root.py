# outcome: exit
# stdout: refused
import os

refused = 0
for attempt in (
    lambda: os.setuid(0),
    lambda: os.setresuid(0, 0, 0),
    lambda: os.setgroups([0]),
    lambda: os.setgid(0),
):
    try:
        attempt()
    except OSError:
        refused += 1
print("refused" if refused == 4 else "changed")
