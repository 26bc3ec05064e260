# outcome: exit
# stdout: refused
import os

try:
    os.execve(0, ["x"], {})
except OSError:
    print("refused")
