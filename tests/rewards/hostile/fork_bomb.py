# outcome: exit
# stdout: refused
import os

started = 0
for _ in range(200):
    try:
        os.fork()
        started += 1
    except OSError:
        pass
print("forked" if started else "refused")
