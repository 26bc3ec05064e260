# outcome: exit
# stdout: refused
import os

try:
    if os.fork() == 0:
        os._exit(0)
    print("forked")
except OSError:
    print("refused")
