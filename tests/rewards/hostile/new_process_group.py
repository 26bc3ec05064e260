# outcome: exit
# stdout: refused
import os

try:
    os.setpgid(0, 0)
    print("a new group")
except OSError:
    print("refused")
