# outcome: exit
# stdout: refused
import os

try:
    os.execv("/bin/sh", ["sh", "-c", "echo ran"])
except OSError:
    print("refused")
