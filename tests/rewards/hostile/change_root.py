# outcome: exit
# stdout: refused
import os

refused = 0
for attempt in (lambda: os.chroot("/"), lambda: os.chdir("/"), lambda: os.fchdir(0)):
    try:
        attempt()
    except OSError:
        refused += 1
print("refused" if refused == 3 else "changed")
